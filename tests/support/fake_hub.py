"""A model hub on 127.0.0.1: the endpoints that huggingface_hub uses for one model, with faults on demand."""

import hashlib
import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

BLOCK = 128 * 1024


@dataclass
class FakeHub:
    """One repository at one commit. Large files (.safetensors) are redirected to /cdn, as the hub does."""

    files: dict[str, bytes]
    repo: str = "org/model"
    revision: str = "0123456789abcdef0123456789abcdef01234567"
    branch: str = "main"  # what stands for the revision
    gated: bool = False
    seconds_per_block: float = 0.0
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers of large files break off
    corrupt: set[str] = field(default_factory=set)  # files with one wrong byte, once
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of every GET
    endpoint: str = ""

    @classmethod
    def of_folder(cls, folder: Path, **options) -> "FakeHub":
        return cls({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, **options)

    @property
    def ranges(self) -> list[str]:
        return [value for _, value in self.requests if value]

    def listing(self) -> dict:
        siblings = []
        for name, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith((".safetensors", ".bin")):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repo, "modelId": self.repo, "sha": self.revision, "siblings": siblings, "tags": [], "private": False}

    def content(self, name: str) -> bytes:
        """What is sent: the file, or once a copy with a wrong byte."""
        content = self.files[name]
        if name in self.corrupt:
            self.corrupt.discard(name)
            middle = len(content) // 2
            return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        return content

    @contextmanager
    def serving(self):
        """Serve on a free port; `endpoint` is the address for HF_ENDPOINT."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.hub.requests.append((self.path, self.headers.get("Range")))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            found = re.fullmatch("/api/models/(.+?)/revision/(.+)", path)
            if hub.gated:
                return self.refuse(403, "GatedRepo")
            if not found or found[1] != hub.repo:
                return self.refuse(404, "RepoNotFound")
            if found[2] not in (hub.revision, hub.branch):
                return self.refuse(404, "RevisionNotFound")
            return self.send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"}, body)
        if path.startswith("/cdn/"):
            return self.file(path.removeprefix("/cdn/"), body)
        name = path.removeprefix(f"/{hub.repo}/resolve/{hub.revision}/")
        if name not in hub.files:
            return self.refuse(404, "EntryNotFound")
        if name.endswith(".safetensors"):
            return self.send(302, b"", {"Location": f"{hub.endpoint}/cdn/{name}", "X-Repo-Commit": hub.revision}, body)
        return self.file(name, body)

    def file(self, name: str, body: bool) -> None:
        content, status = self.hub.content(name), 200
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.hub.revision}
        if wanted := self.headers.get("Range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        cut = self.hub.cuts.pop(0) if self.hub.cuts and name.endswith(".safetensors") and body else None
        self.send(status, content, headers, body, cut)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            for first in range(0, len(content) if body else 0, BLOCK):
                if cut is not None and first >= cut:
                    self.close_connection = True
                    return
                self.wfile.write(content[first : first + BLOCK])
                time.sleep(self.hub.seconds_per_block)
        except OSError:  # the client was killed
            self.close_connection = True

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
