"""What a site says of where jobs run, in one file that it copies from workflow/profiles/site.yaml and edits.

Nothing in it changes a result. It is read at every parse of the Snakefile, on the nodes too. Import-light.
"""

import os
import shutil
from collections.abc import MutableMapping
from getpass import getuser
from pathlib import Path
from socket import gethostname
from typing import Annotated, Literal

from pydantic import ValidationError

from ptqflow import configfile, environments, slurm
from ptqflow.datamodel import Matching, Model
from ptqflow.devices import visible
from ptqflow.environments import CORE
from ptqflow.errors import ConfigError, explain

EXAMPLE = "workflow/profiles/site.yaml"
LEAST_FREE = 16 * 2**20  # bytes of a scratch folder
IN_IMAGE = "/opt/ptqflow"  # containers/*.Dockerfile
# What jobs read of their surroundings, and an image must not keep out.
CARRIED = (
    *("PTQFLOW_CODE", "SLURM_JOB_ID", visible.STANDS_FOR, visible.SHARED_BY),
    *(*visible.VARIABLES.values(), visible.GIVEN_TO, *visible.BY_SLURM),
)
Word = Annotated[str, Matching(r"^[A-Za-z0-9_.+-]+$", "a word of letters, digits and _.+-", 200)]
Gres = Annotated[
    str, Matching(r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$", "the NAME or NAME:TYPE of one device, without a count,", 200)
]
AbsolutePath = Annotated[str, Matching(r"^/[^\s,:'\"]*$", "an absolute path without blanks, commas, colons and quotes")]
Bind = Annotated[
    str,
    Matching(
        r"^/[^\s,:'\"]*(:/[^\s,:'\"]*(:r[ow])?)?$",
        "an absolute path, HERE or HERE:IN_IMAGE or HERE:IN_IMAGE:ro, without blanks, commas and quotes",
    ),
]
Variable = Annotated[str, Matching(r"^[A-Za-z_][A-Za-z0-9_]*$", "the name of a variable, of letters, digits and _,")]


class Slurm(Model):
    """Names that this cluster's Slurm knows. `partition`: of jobs without a device; `device_partition`: of the others, the same
    where it is left out. `gres`: NAME or NAME:TYPE of one device; null where a partition's nodes are given whole.
    """

    partition: Word | None = None
    device_partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gres: Gres | None = None
    head: list[Literal["fetch", "aggregate", "plot", "samples", "report"]] = ["fetch"]

    def options(self, devices: int) -> dict[str, str | None]:
        """Resources of Snakemake's Slurm executor for a job that needs `devices`; None where Slurm's default is to hold."""
        partition = (self.device_partition or self.partition) if devices else self.partition
        gres = f"{self.gres}:{devices}" if self.gres and devices else None
        return {"slurm_partition": partition, "slurm_account": self.account, "qos": self.qos, "gres": gres}

    def tell_devices(self, platform: str, variables: MutableMapping[str, str]) -> None:
        """Set the variable that the driver reads to what the job of these variables was given, where Slurm has not.

        What Slurm sets stays: under ConstrainDevices the driver counts the job's devices alone, and `scontrol` the node's.
        """
        if self.gres is None or platform not in visible.VARIABLES or visible.given_by_slurm(platform, variables):
            return
        if given := slurm.allocated(self.gres, variables):
            variables[visible.VARIABLES[platform]] = ",".join(given)
            variables[visible.GIVEN_TO] = variables["SLURM_JOB_ID"]

    def limits(self, most_ranks: int = 1) -> dict[bool, slurm.Limits]:
        """What a job without, and with, a device can have at most; empty where no Slurm answers here.

        Raises ConfigError for a partition or a gres that the cluster does not have, or not `most_ranks` of it on one node:
        its jobs would never start.
        """
        found: dict[bool, slurm.Limits] = {}
        if not slurm.said("sinfo", "--noheader"):
            return found
        for devices in (False, True):
            partition = self.options(int(devices))["slurm_partition"]
            if (limits := slurm.limits(partition)) is None:
                raise ConfigError(f"slurm: this cluster has no partition {partition or '(default)'}; `sinfo` lists them")
            if devices and self.gres and not limits.gres.get(self.gres):
                has = ", ".join(sorted(limits.gres)) or "none"
                raise ConfigError(f"slurm.gres: no node of partition {limits.partition} has {self.gres}; it has {has}")
            if devices and self.gres and limits.gres[self.gres] < most_ranks:
                raise ConfigError(
                    f"tensor_parallel {most_ranks}: no node of partition {limits.partition} has more than "
                    f"{limits.gres[self.gres]} {self.gres}; use at most so many"
                )
            found[devices] = limits
        return found


class Site(Model):
    """`image`: a container image with the packages, that jobs run in; `binds`: folders of the host it shows; `scratch`: a folder
    of each node for temporary files and caches. `stand_in`: the devices are stand-ins for tests: jobs ask for them and see
    theirs, but the CPU computes, and the results are filed as the CPU's.
    """

    slurm: Slurm | None = None
    image: str | None = None
    binds: list[Bind] = []
    scratch: AbsolutePath | None = None
    environment: dict[Variable, str] = {}
    stand_in: bool = False

    def python(self, family: str) -> str:
        """The interpreter of a family of packages: in the image, else on this machine."""
        if self.image is None or family == CORE:
            return environments.python(family)
        return f"{IN_IMAGE}/{family}/bin/python"

    def enter(self, variables: MutableMapping[str, str], on_node: bool, platform: str = "cpu") -> None:
        """Set the environment of the jobs of a platform that this process starts, and on their node make their scratch.

        Raises ConfigError where it cannot.
        """
        variables.update(self.environment)
        binds = list(self.binds)
        if on_node and self.scratch is not None:
            os.environ.setdefault("USER", getuser())  # not every batch system sets it
            scratch = os.path.expandvars(self.scratch)
            if "$" in scratch:
                raise ConfigError(f"scratch: {scratch} names a variable that jobs do not have; name another")
            try:
                Path(scratch).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"scratch: {scratch} cannot be made on {gethostname()} ({error.strerror}); name another"
                ) from None
            if shutil.disk_usage(scratch).free < LEAST_FREE:  # Snakemake's own scheduler needs some, too
                raise ConfigError(f"scratch: {scratch} is full on {gethostname()}; make room there, or name another")
            variables.update(TMPDIR=scratch, XDG_CACHE_HOME=f"{scratch}/cache")
            binds.append(scratch)
        if self.image is not None:
            binds.append(str(environments.ROOT))  # our code, where a study lies elsewhere
            if platform == "gpu":
                variables.setdefault(f"{_runtime()}_NV", "1")  # `--nv`: the host's driver, where there is one
        if binds:
            variables[f"{_runtime()}_BIND"] = ",".join(binds)

    def carry(self, variables: MutableMapping[str, str]) -> None:
        """Name what jobs need to the container's runtime, too, which with `--cleanenv` lets nothing else in."""
        if self.image is None:
            return
        names = {*CARRIED, *self.environment, *(("TMPDIR", "XDG_CACHE_HOME") if self.scratch else ())}
        variables.update({f"{_runtime()}ENV_{name}": variables[name] for name in sorted(names) if name in variables})


def _runtime() -> str:
    """How variables of the container's runtime begin; Apptainer's `singularity` is Apptainer."""
    return "SINGULARITY" if shutil.which("singularity") and not shutil.which("apptainer") else "APPTAINER"


def load(path: str | None) -> Site:
    """The site that `site` of the configuration names; none is a machine of its own.

    Raises ConfigError, in one sentence, for a file that is missing or says what cannot be.
    """
    if path is None:
        return Site()
    if not Path(path).is_file():
        raise ConfigError(f"{path} does not exist; copy {EXAMPLE} there and write into it what this cluster is called")
    try:
        site = Site.model_validate(configfile.read(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Site)}") from None
    _check_image(path, site.image)
    return site


def _check_image(path: str, image: str | None) -> None:
    """Raise ConfigError for an image that is no file, or that nothing here can run."""
    if image is None:
        return
    if "://" not in image and not Path(image).exists():
        raise ConfigError(
            f"{path}: image: {image} does not exist; build it (`make containers IMAGE=core`, gpu or ascend) or correct the path"
        )
    if not any(shutil.which(name) for name in ("apptainer", "singularity")):
        raise ConfigError(f"{path}: image: neither apptainer nor singularity is on PATH; load it, or leave the image out")
