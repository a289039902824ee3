"""`ptqflow check`: whether a configuration is a study, which jobs it asks for, and what they will cost, before anything runs."""

import argparse
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ptqflow import configfile, estimate, profiles
from ptqflow.artifacts.manifests import Manifest
from ptqflow.checked import load
from ptqflow.commands.folders import CONFIG, study_folder
from ptqflow.commands.located import located
from ptqflow.commands.run import environment, profile_folder, snakemake
from ptqflow.errors import ConfigError, PtqflowError
from ptqflow.expected import expected
from ptqflow.study import Study, config_of
from ptqflow.system import machine_memory
from ptqflow.table_jobs import unserved
from ptqflow.words import counted, span

EXAMPLES = """examples:
  ptqflow check              the study in this folder
  ptqflow check my-study     another one: its folder, or its config.yaml
"""
_SIDE = 512  # of the matrices by whose product a core's speed is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study."""
    parser.add_argument("config", nargs="?", type=Path, default=Path(CONFIG), help="config.yaml, or the folder that holds it")
    parser.add_argument("--profile", default="local", help="where jobs would run (default: local)")


def run(args: argparse.Namespace) -> int:
    """Print what is asked for, the jobs that are not done, and their estimated time, memory and disk."""
    file = study_folder(args.config) / CONFIG
    folder = file.parent.resolve()
    planned = planned_jobs(folder, args.profile)
    study = study_of(folder, args.profile)
    print(f"{file}: a study of {len(study.models)} model(s), {len(study.chosen)} recipe(s), {len(study.tasks_asked())} task(s)")
    print("to run: " + (", ".join(f"{n} {rule}" for rule, n in planned.items()) or "nothing, all is done"))
    for line in unserved(study):
        print(line)
    configs = _of_hub(study)
    models = estimate.sizes(study, configs)
    rate, cores = speed(), len(os.sched_getaffinity(0))
    by_rule = estimate.seconds(study, models, rate)
    planned = {rule: n for rule, n in planned.items() if rule in by_rule}
    work = {rule: n * sum(by_rule[rule]) / len(by_rule[rule]) for rule, n in planned.items()}
    wall = estimate.wall(work, {rule: max(by_rule[rule]) for rule in planned}, cores)
    if computes_here(args.profile):
        where = f"about {span(wall)} on the {cores} cores here, "
        bounds = "expect a factor of 2 either way, more where others compute here, too"
    else:
        where, bounds = "", f"how fast the devices or nodes of profile {args.profile} are is not known here"
    print(
        f"time:   {where}{span(sum(work.values()))} of one core, generation at its longest (a core here multiplies matrices at "
        f"{rate / 1e9:.0f} GFLOP/s; {bounds})"
    )
    for rule, seconds in work.items():
        if seconds > sum(work.values()) / 10:
            print(f"        {rule}: {counted(planned[rule], 'job')}, {span(seconds)} of one core")
    job, most = estimate.memory(study, configs)
    print(f"memory: {most / 1e9:.1f} GB for the largest job, {job} (of {machine_memory() / 1e9:.1f} GB here)")
    disk, free = estimate.disk(study, models), shutil.disk_usage(folder).free
    print(f"disk:   about {disk / 1e9:.2f} GB in all; {free / 1e9:.1f} GB are free here")
    if disk - _stored(study) > free:
        print("        this does not fit: fewer recipes or forms, or another disk")
        return 1
    return 0


def _stored(study: Study) -> int:
    """Bytes of the study's models and checkpoints that are there already."""
    manifests = {path for kind, _, path in expected(study, study.platform) if kind == "checkpoints" and Path(path).is_file()}
    return sum(file.bytes for path in manifests for file in Manifest.read(path).files.values())


def computes_here(profile: str) -> bool:
    """Whether jobs of a profile run on the CPU of this machine: no device, no cluster."""
    stated = profiles.stated(profile_folder(profile))
    return stated.get("platform", "cpu") == "cpu" and "site" not in stated


def study_of(folder: Path, profile: str = "local") -> Study:
    """The study of a folder on a profile's platform. Its paths are relative to the folder, so this process goes there."""
    stated = profiles.stated(profile_folder(profile))
    os.chdir(folder)
    return load(configfile.read(CONFIG) | {key: stated[key] for key in stated.keys() & {"platform"}})


def planned_jobs(folder: Path, profile: str) -> dict[str, int]:
    """Jobs that are not done, by rule, as Snakemake plans them. Raises ConfigError with its words where it refuses."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder / CONFIG} does not exist; name the folder of a study, or make one with `ptqflow new`")
    configfile.check(folder / CONFIG)
    command = [*snakemake(folder, profile), "--dry-run", "--quiet", "rules"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(_reason(done.stdout + done.stderr))
    rows = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("all", "total")}


def _of_hub(study: Study) -> dict[str, Any]:
    """config.json of the models that are not fetched yet, from the hub where it can be reached."""
    found = {}
    for name, entry in study.models.items():
        if config_of(study, name) is None:
            try:
                found[name] = located(f"{entry.source.repo}@{entry.source.revision}").config
            except PtqflowError as error:
                raise ConfigError(f"models.{name}: its size is not known: {error}") from None
    return found


def speed() -> float:
    """Operations per second of one core at products of float32 matrices: the best of a few, in CPU time, as if it were idle."""
    import torch

    threads, matrix, best = torch.get_num_threads(), torch.randn(_SIDE, _SIDE), float("inf")
    torch.set_num_threads(1)
    for _ in range(20):
        start = time.thread_time()
        matrix @ matrix
        best = min(best, time.thread_time() - start)
    torch.set_num_threads(threads)
    return 2 * _SIDE**3 / best


def _reason(said: str) -> str:
    """Why Snakemake refuses a study: what stands below `WorkflowError in file ...:`, or in the last line that names an error."""
    if below := re.findall(r"^\w+ in file .*:\n(.+)$", said, flags=re.MULTILINE):
        return str(below[-1]).strip()
    lines = [line.strip() for line in said.splitlines() if "config.yaml" in line or "Error" in line]
    return lines[-1] if lines else f"Snakemake refuses the study: {said.strip()[-500:]}"
