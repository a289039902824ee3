"""`ptqflow quantize-model MODEL`: one model by one recipe into a folder that an engine serves, by the jobs of a study of its own.

The study lies in a work folder beside the output. Its jobs are those of any other, so a run that was broken off goes on, and
another recipe of the same model in the same work folder fetches and calibrates nothing again.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

from ptqflow import asked, paths, profiles
from ptqflow.artifacts.atomic import atomic_path, write_text
from ptqflow.artifacts.manifests import NAME, Manifest
from ptqflow.checked import load
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.schemes import check, in_words
from ptqflow.checkpoints.server import vllm_on
from ptqflow.commands.entries import PLACES, calibration_entry, recipe_entry, settings
from ptqflow.commands.folders import CONFIG
from ptqflow.commands.located import located, named
from ptqflow.commands.run import alone, profile_folder, workflow
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.shapes import check_recipe

TAKES_REST = True  # options of Snakemake's
CALIBRATION = "calibration"
HEAD = "# Written by `ptqflow quantize-model`; `ptqflow run` with this folder makes the tables, too.\n"
EXAMPLES = """examples:
  ptqflow quantize-model resources/demo-model --recipe awq-w4a16 --out demo-awq \\
      --calibration resources/calibration/traces.jsonl --set calibration.samples=64 calibration.sequence_length=256
  ptqflow quantize-model Qwen/Qwen3-1.7B@main --recipe rtn-w8a8 --out qwen3-w8a8
  ptqflow quantize-model Qwen/Qwen3-1.7B --recipe gptq-w4a16 --format gptq --out qwen3-gptq \\
      --calibration openai/gsm8k:main:train --set calibration.fields.prompt=question calibration.fields.completion=answer
  ptqflow quantize-model my-model --recipe awq-w4a16 --set scheme.weights.num_bits=3 --calibration traces.jsonl --out out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, recipe, form and folders."""
    parser.add_argument("model", help="a folder, or org/name[@revision] on the hub; a branch is resolved to its commit")
    parser.add_argument("--recipe", required=True, help="a preset (`ptqflow recipes`), or a YAML file that holds one recipe")
    parser.add_argument("--format", default="compressed-tensors", help="form of the checkpoint (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint; it must be new, or hold one of ptqflow's"
    )
    parser.add_argument("--calibration", help=PLACES)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="changes of the recipe, or calibration.KEY=VALUE; as often as you like",
    )
    parser.add_argument("--chunks", type=int, default=1, help="into how many independent jobs the blocks are cut (default: 1)")
    parser.add_argument(
        "--work", type=Path, help="folder of its study, new or of an earlier call (default: the output's name with .work)"
    )
    parser.add_argument("--profile", default="local", help="where jobs run (default: local)")


def run(args: argparse.Namespace) -> int:
    """Write the study, run what leads to the checkpoint and its verification, and put it into the output folder."""
    out: Path = args.out.expanduser().resolve()  # a shell leaves ~ in --out=~/folder
    work: Path = args.work.expanduser().resolve() if args.work else out.with_name(f"{out.name}.work")
    _check_output(out)
    for what, path in (("the current folder", Path.cwd()), ("--work", work)):
        if path.is_relative_to(out):
            raise ConfigError(f"--out {args.out} is replaced as a whole, and {what} lies in it; name another folder")
    changes = settings(args.set)
    of_calibration = changes.pop(CALIBRATION, {})
    if not isinstance(of_calibration, dict):
        raise ConfigError(f"--set {CALIBRATION}={of_calibration}: give {CALIBRATION}.KEY=VALUE, as {CALIBRATION}.samples=64")
    model = located(args.model)
    entry, recipe = recipe_entry(args.recipe, changes)
    check_recipe(recipe, model.config, args.recipe, model.name)
    if args.format != registry.FAKE:
        check(args.format, registry.refusal(args.format, recipe, model.config), args.recipe)
    calibration = calibration_entry(args.calibration, recipe, of_calibration, model)
    name, platform = named(Path(args.recipe).stem), _platform(args.profile)
    _write_study(work, model.name, model.entry | {"chunks": args.chunks}, name, entry, args.format, calibration)

    where = model.source.get("path") or f"{model.source['repo']} at {model.source['revision']}"
    print(f"{where}\n{in_words(recipe)}\nstudy: {work} (jobs that are done are kept there)", file=sys.stderr)
    variant = f"{name}.{args.format}"
    manifest = work / paths.checkpoint(platform, model.name, variant)
    checks = work / paths.verification(platform, model.name, variant)
    targets = [str(path.relative_to(work)) for path in (manifest, checks)]
    if status := workflow(work, args.profile, [*args.rest, "--", *targets]):
        return status
    if asked.plans_only(args.rest):
        return 0
    made = Manifest.read(manifest)
    if made.origin["settings"]["recipe"] != recipe.model_copy(update={"calibration": None}).dump():
        raise ConfigError(f"{manifest} is of another recipe, and its jobs did not run; leave out {' '.join(args.rest)}")
    with chdir(work):  # where hashes of large files are remembered
        made.verify(manifest.parent)
    _publish(manifest.parent, made, out)
    loading = registry.scheme(args.format).loading(recipe, str(out.resolve()), vllm_on(platform))
    _print_end(out, made, checks, args.format, loading)
    return 0


def _platform(profile: str) -> str:
    """The platform whose results the jobs of a profile write. Raises ConfigError for a profile that states none."""
    stated = profiles.stated(profile_folder(profile))
    if "platform" not in stated:
        raise ConfigError(
            f"--profile {profile} states no platform; write `platform: cpu` (or gpu, ascend) into a {profiles.OVERLAY} there"
        )
    return str(stated["platform"])


def _check_output(out: Path) -> None:
    """Refuse a folder that holds anything but a checkpoint of ours: publishing replaces it as a whole."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        manifest = Manifest.read(out / NAME)
    except ArtifactError:
        manifest = None
    if manifest is None or manifest.origin.get("stage") != "export":
        raise ConfigError(f"--out {out} holds files that are no checkpoint of ptqflow's; name a new folder")
    known = {NAME, *manifest.files}
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
    if others := [name for name in found if name not in known]:
        raise ConfigError(
            f"--out {out} holds {others[0]}, which the checkpoint there does not list; move it away, or name a new folder"
        )


def _write_study(
    work: Path, model: str, source: dict[str, Any], recipe: str, entry: dict[str, Any], form: str, calibration: dict[str, Any]
) -> None:
    study = {
        "models": {model: source},
        "calibrations": {CALIBRATION: calibration},
        "calibration": CALIBRATION,
        "recipes": {recipe: entry},
        "forms": {"fake": "all"} | ({form: [recipe]} if form != registry.FAKE else {}),
    }
    file, text = work / CONFIG, HEAD + yaml.safe_dump(study, sort_keys=False)
    before = file.read_text(encoding="utf-8") if file.exists() else HEAD
    if not before.startswith(HEAD):
        raise ConfigError(f"--work {work} holds a study that `quantize-model` did not write; name another folder")
    load(study)  # what Snakemake would refuse, before anything is written
    if before != text:
        work.mkdir(parents=True, exist_ok=True)
        with alone(work):
            write_text(file, text)


def _publish(checkpoint: Path, manifest: Manifest, out: Path) -> None:
    """The checkpoint's files under another name, whole or not at all.

    Weights are hard links where the file system has them; all else is copied, since it may be edited there.
    """
    _check_output(out)  # again: jobs took a while
    with atomic_path(out) as new:
        for name in [*manifest.files, NAME]:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            if not (name.endswith(".safetensors") and _linked(checkpoint / name, new / name)):
                shutil.copy2(checkpoint / name, new / name)


def _linked(file: Path, link: Path) -> bool:
    """Whether a file could be given another name."""
    try:
        os.link(file, link)
    except OSError:
        return False
    return True


def _print_end(out: Path, manifest: Manifest, checks: Path, form: str, loading: str) -> None:
    from ptqflow.artifacts import schemas
    from ptqflow.artifacts.tables import read_table

    size = sum(entry.bytes for entry in manifest.files.values())
    weights = sum(entry.bytes for name, entry in manifest.files.items() if name.endswith(".safetensors"))
    rows = read_table(checks, schemas.VERIFICATION).to_pylist()
    share = 100 * weights / next(row["value"] for row in rows if row["check"] == "baseline_bytes")
    passed = Counter(row["status"] for row in rows)
    print(f"checkpoint:   {out.resolve()} (form {form})")
    print(f"size:         {size / 1e6:.1f} MB, weights {weights / 1e6:.1f} MB, {share:.0f} % of the float model's")
    print(f"verification: {passed['passed']} checks passed, none failed ({checks})")
    for row in rows:
        if row["check"] == "mean_logprob_difference" and row["value"] is not None:
            print(f"              log p in {row['subject']}: {row['value']:.3g} nats from the fake form's on average")
        if row["status"] != "passed":
            print(f"              {row['status']}: {row['note']}")
    print(f"model card:   {out / 'README.md'}")
    print("\n".join(["how to load it:", *(f"  {line}" for line in loading.splitlines())]))
