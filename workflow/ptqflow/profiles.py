"""What a profile of Snakemake's says of the configuration: the platform of its jobs, and the site of a cluster.

A profile says it twice, as `config` in profile.yaml and in a platform.yaml beside it: `--config` on the command line takes the
place of the one, and `--configfile` of the other. Import-light: the Snakefile reads this.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptqflow import configfile
from ptqflow.errors import ConfigError

OVERLAY = "platform.yaml"
_FILES = ("profile.yaml", "config.yaml")


def overlay(folder: Path) -> dict[str, Any]:
    """Keys of the configuration that a profile's platform.yaml sets; none where it has no such file."""
    file = folder / OVERLAY
    return configfile.read(file) if file.is_file() else {}


def stated(folder: Path) -> dict[str, Any]:
    """Keys of the configuration that a profile sets, in platform.yaml or by `config` in its profile.yaml."""
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    config = configfile.read(file).get("config") if file else None
    if isinstance(config, list):
        config = dict(str(entry).split("=", 1) for entry in config if "=" in str(entry))
    return (config if isinstance(config, dict) else {}) | overlay(folder)


def refuse_lost(arguments: Sequence[str], folder: str, study: object, given: Mapping[str, Any]) -> None:
    """Raise ConfigError where the command line of Snakemake has taken away what its profile says.

    `folder`: where Snakemake was started; `study`: what came of it; `given`: the keys of --config.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", action="append", default=[])
    for profile in parser.parse_known_args(arguments)[0].profile:
        place = Path(folder, profile)
        for key, value in overlay(place).items():
            if key not in given and getattr(study, key, value) != value:
                raise ConfigError(
                    f"--profile {profile} says {key}: {value}, but --config and --configfile together take its place; "
                    f"give {place / OVERLAY} to --configfile, too, behind files of your own, or {key}={value} to --config"
                )
