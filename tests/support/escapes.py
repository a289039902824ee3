"""What generated code might try. What is tried prints ESCAPED where it succeeds, and HELD where it is refused."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Escape:
    """`code` tries it; {home}, {repository}, {outside}, {port} and {abstract} in it are filled in by the test."""

    name: str
    stopped_by: str
    code: str

    @property
    def program(self) -> str:
        """The code, made to say whether it succeeded."""
        tried = "\n    ".join(self.code.strip("\n").split("\n"))
        return (
            f"try:\n    {tried}\n    print('ESCAPED')\nexcept BaseException as error:\n    print('HELD', type(error).__name__)\n"
        )


_TRIED = [
    ("connect to this machine", "system calls, own network", """
import socket
socket.create_connection(('127.0.0.1', {port}), 3)
"""),
    ("look up a name", "system calls, own network", """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))
"""),
    ("connect to a socket of the host by its abstract name", "own network", """
import socket
socket.socket(socket.AF_UNIX).connect('\\0{abstract}')
"""),
    ("read the repository", "own root", """
open('{repository}/pyproject.toml').read()
"""),
    ("list HOME", "own root", """
import os
assert os.listdir('{home}')
"""),
    ("read the host's name", "own root", """
open('/etc/hostname').read()
"""),
    ("read secrets in the environment", "clean environment", """
import os
assert 'PTQFLOW_SECRET' in os.environ
"""),
    ("read the parent's environment through /proc", "own processes", """
import os
others = [p for p in os.listdir('/proc') if p.isdigit()]
assert any(b'PTQFLOW_SECRET' in open('/proc/' + p + '/environ', 'rb').read() for p in others)
"""),
    ("reach the host's root through /proc", "own processes, own root", """
import os
others = [p for p in os.listdir('/proc') if p.isdigit()]
assert any(os.path.exists('/proc/' + p + '/root{repository}/pyproject.toml') for p in others)
"""),
    ("write outside its folder", "own root", """
open('{outside}', 'w').write('x')
"""),
    ("write into the interpreter", "read-only", """
import json
open(json.__file__, 'a').write('#')
"""),
    ("write into the root", "read-only", """
open('/escaped', 'w').write('x')
"""),
    ("follow a symbolic link outside", "own root", """
import os
os.symlink('{repository}', '/tmp/link')
open('/tmp/link/pyproject.toml').read()
"""),
    ("start another program", "system calls", """
import subprocess
subprocess.run(['/usr/bin/env'], check=True)
"""),
    ("fork", "system calls", """
import os
os.fork()
"""),
    ("leave a daemon behind", "system calls, own processes", """
import os, time
if os.fork() == 0:
    os.setsid()
    while True:
        open('{outside}', 'a').write('x'); time.sleep(0.1)
"""),
    ("a bomb of processes", "system calls", """
import os
while True:
    os.fork()
"""),
    ("a bomb of threads", "memory limit", """
import threading, time
for _ in range(100000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""),
    ("all memory", "memory limit", """
kept = []
while True:
    kept.append(bytearray(1 << 28))
"""),
    ("memory that no process owns", "system calls", """
import os
os.ftruncate(os.memfd_create('x'), 1 << 33)
"""),
    ("fill the disk", "size of the scratch folder", """
for n in range(1000):
    open(f'/tmp/{n}', 'wb').write(bytes(1 << 25))
"""),
    ("one huge file", "file limit", """
file = open('/tmp/big', 'wb')
for _ in range(100):
    file.write(bytes(1 << 20))
file.flush()
"""),
    ("fill shared memory", "read-only", """
for n in range(1000):
    open(f'/dev/shm/{n}', 'wb').write(bytes(1 << 25))
"""),
    ("say without end", "file limit", """
while True:
    print('x' * 1000000)
"""),
    ("answer in the runner's place without end", "output limit", """
import os
for fd in range(3, 64):
    try:
        while True: os.write(fd, b'x' * 65536)
    except OSError: pass
"""),
    ("kill every process", "own processes", """
import os, signal
os.kill(-1, signal.SIGKILL)
"""),
    ("kill the parent", "own processes", """
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
import time; time.sleep(1)
assert os.getppid() != 1
"""),
    ("trace another process", "system calls", """
import ctypes
assert ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0) == 0
"""),
    ("become root", "no rights", """
import os
os.chown('/tmp', 1000, 1000)
"""),
    ("mount a file system", "system calls, no rights", """
import ctypes
assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0
"""),
    ("make a namespace", "system calls", """
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0
"""),
    ("make a device", "no rights", """
import os
os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))
open('/tmp/disk', 'rb').read(1)
"""),
    ("loop for ever", "processor time", """
while True: pass
"""),
    ("loop for ever, deaf to its timer", "wall time", """
import signal
signal.setitimer(signal.ITIMER_PROF, 0)
signal.signal(signal.SIGPROF, signal.SIG_IGN)
while True: pass
"""),
    ("sleep for ever", "wall time", """
import time
time.sleep(10 ** 6)
"""),
    ("raise its limits", "hard limits", """
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
"""),
]  # fmt: skip
ESCAPES = [Escape(*tried) for tried in _TRIED]
