"""`ptqflow COMMAND ...`: what a user asks for as a whole, and one sub-command per stage of the workflow, each usable by hand.

A stage module (`ptqflow.stages.<name>`) offers `Settings` (a data model), `add_arguments(parser)` (its input and output
paths) and `run(settings, args)`; a command's (`ptqflow.commands.<name>`) `EXAMPLES`, `add_arguments` and `run(args)`, which
returns an exit status or None. Only the one asked for is imported.
"""

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ptqflow.devices.visible import claim
from ptqflow.errors import ArtifactError, ConfigError, PtqflowError, explain
from ptqflow.planned_code import code_digest
from ptqflow.system import is_out_of_memory, refused

STAGES = {
    "fetch": "copy or download a model at a pinned revision, with the sha256 of every file",
    "rotate": "turn the residual stream of a model: the same function, fewer outliers",
    "tokens": "draw a calibration set of token windows",
    "selftest": "probe the device: gradients, precision, rounding, factors, against float64 on the CPU",
    "collect": "one float forward pass: channel statistics and hidden states at chunk boundaries",
    "quantize": "quantize one chunk of decoder blocks by a recipe: integers, scales, diagnostics",
    "rescue": "calibrate the blocks of a quantized model that stand out once more, rung by rung",
    "export": "write a checkpoint from a recipe's integers and scales",
    "verify": "read a checkpoint back and compare it with its integers, and its logits with the fake form",
    "generate": "what one checkpoint says to one task: completions, log-likelihoods of alternatives or of text",
    "score": "extract and compare the answers of a task; needs no model",
    "overlap": "how much of a task's items stands in a calibration set",
    "measure": "latency of prefill and decode of one checkpoint",
    "aggregate": "tables across models, recipes and tasks",
    "plot": "one figure from the tables",
    "samples": "a page of prompts and completions, the baseline beside each variant",
    "report": "one page of answers, tables and figures",
}
# What a user asks for as a whole: modules of `ptqflow.commands`, each with `add_arguments`, `run` and `EXAMPLES`.
COMMANDS = {
    "quantize-model": "quantize one model by one recipe into a folder that an engine serves, and verify it",
    "run": "run a study: every job that its config.yaml asks for and that is not done, then the report",
    "new": "make a folder with a commented study of your own",
    "check": "validate a study, count its jobs, and estimate time, memory and disk before anything runs",
    "recipes": "list the presets, and the recipes of a configuration, in words",
    "formats": "which form of checkpoint holds which recipe for a model, who serves it, and why not",
    "card": "print the model card of a study's checkpoint with its scores and their intervals",
    "explain": "show the complete recipe that a name of config.yaml, or a preset, stands for",
}


def read_settings(text: str) -> object:
    """`--settings`: a JSON string, or `@file` holding one."""
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--settings is not JSON and no readable @file: {error}") from None


def check_code(expected: str) -> None:
    """Refuse to run other code than the one the job was planned with (an edit while it waited in a queue)."""
    modules = [f"ptqflow.{name}" for name in expected.rpartition(":")[0].split("+")]
    try:
        found = code_digest(*modules)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--code {expected}: {error}; leave --code out, or run the workflow again") from None
    if found != expected:
        raise ConfigError(
            f"the code changed since this job was planned (now {found}, planned {expected}); run the workflow again"
        )


def _version() -> str:
    """As installed; a container has the packages alone, and our code mounted."""
    try:
        return version("ptqflow")
    except PackageNotFoundError:
        return "(not installed)"


def _parser(asked: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ptqflow",
        usage="ptqflow COMMAND ...",
        description="Post-training quantization of reasoning LLMs: whole studies, single models, single stages.",
        epilog="`ptqflow COMMAND --help` shows the options of one, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"ptqflow {_version()}")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="COMMAND", prog="ptqflow")
    for name, summary in COMMANDS.items():
        module = import_module(_module_of(name)) if name == asked else None
        command = commands.add_parser(
            name,
            help=summary,
            description=_sentence(summary),
            epilog=module.EXAMPLES if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module is not None:
            module.add_arguments(command)
            command.set_defaults(module=module)
    for name, summary in STAGES.items():
        command = commands.add_parser(name, help=f"stage: {summary}", description=_sentence(summary))
        if name == asked:
            module = import_module(f"ptqflow.stages.{name}")
            command.add_argument("--settings", required=True, help=f"JSON (or @file): {settings_help(module.Settings)}")
            command.add_argument("--code", help="digest of the code this job was planned with; refused when it differs")
            command.add_argument(
                "--devices", type=int, default=0, help="see so many devices of the platform, and no other process them"
            )
            module.add_arguments(command)
            command.set_defaults(module=module)
    return parser


def _module_of(command: str) -> str:
    return f"ptqflow.commands.{command.replace('-', '_')}"


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def settings_help(model: type) -> str:
    """The keys of a settings model, required ones first."""
    fields = getattr(model, "model_fields", {})
    return (
        ", ".join(name if field.is_required() else f"[{name}]" for name, field in fields.items())
        or "see the stage's documentation"
    )


def _stage_settings(model: type[BaseModel], text: str) -> BaseModel:
    settings = read_settings(text)
    entry = settings.get("recipe") if isinstance(settings, dict) else None
    try:
        if isinstance(entry, dict) and "preset" in entry:  # as in config.yaml
            from ptqflow.presets import resolve

            settings = {**settings, "recipe": resolve(entry)}  # type: ignore[dict-item]
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"--settings: {explain(error, model)}") from None


@contextmanager
def _explained() -> Iterator[None]:
    """What libraries say of refused memory, of a refusing system and of damaged safetensors files, as the errors of `main`."""
    try:
        yield
    except (PtqflowError, OSError):
        raise
    except Exception as error:
        if (refusal := refused(error)) is not None:
            raise refusal from error
        safetensors = sys.modules.get("safetensors")
        if safetensors is None or not isinstance(error, safetensors.SafetensorError):
            raise
        raise ArtifactError(
            f"a safetensors file is damaged ({error}); delete it and run the stage that makes it again"
        ) from error


OUT_OF_MEMORY = (
    "memory does not suffice; use more chunks, a smaller batch_size, fewer samples, or a machine with more memory (limits of the "
    "shell or container count, too), then run the same command again"
)


def refusal(error: OSError) -> str:
    """One sentence for what the operating system refused, with the remedy."""
    what = os.strerror(error.errno) if error.errno else f"{type(error).__name__}: {' '.join(str(error).splitlines())}"
    where = f": {error.filename}" if error.filename else ""
    detail = f" ({error.strerror})" if error.errno and error.strerror and error.strerror != what else ""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    remedy = "remove the cause"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free space or raise the limit"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        remedy = "make the place writable (and readable) or choose another"
    return f"{what}{where}{detail}; outputs are written whole or not at all: {remedy}, then run the same command again"


def _command(name: str, argv: Sequence[str]) -> int:
    """Run a command; what it does not know is refused, unless it hands it on (`TAKES_REST`)."""
    parser = _parser(name)
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args.module, "TAKES_REST", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    status: int | None = args.module.run(args)
    return status or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command or stage. Returns 0 done, 2 bad input or configuration, 1 the system refused (disk, permission).

    Anything else is a bug and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    stage = next((a for a in argv if a in STAGES or a in COMMANDS), None)
    try:
        with _explained():
            if stage in COMMANDS:
                return _command(stage, argv)
            args = _parser(stage).parse_args(argv)
            if args.code:
                check_code(args.code)
            if args.devices:
                claim(args.platform, args.devices)
            args.module.run(_stage_settings(args.module.Settings, args.settings), args)
    except PtqflowError as error:
        print(f"ptqflow {stage}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads (`| head`) has read enough; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (OSError, MemoryError) as error:
        said = refusal(error) if isinstance(error, OSError) else OUT_OF_MEMORY
        print(f"ptqflow {stage}: {said}", file=sys.stderr)
        return 1
    return 0
