"""Studies as users name them: by a folder that holds `config.yaml`, or by that file."""

from collections.abc import Sequence
from pathlib import Path

from ptqflow import configfile
from ptqflow.errors import ConfigError

CONFIG = "config.yaml"


def configuration(place: str | Path) -> Path:
    """The configuration that a user means by a file, or by a folder that holds `config.yaml`."""
    return Path(place, CONFIG) if Path(place).is_dir() else Path(place)


def study_folder(place: str | Path) -> Path:
    """The folder of a study that a user means by it, or by its `config.yaml`; raises ConfigError for another file."""
    path = Path(place)
    if path.name == CONFIG and not path.is_dir():
        return path.parent
    if path.is_file():
        raise ConfigError(f"{place}: a study is a folder with {CONFIG}; name that folder or file")
    return path


def refuse_study_behind(options: Sequence[str]) -> None:
    """Raise ConfigError where a study is named behind options of Snakemake's, which would take it for a target."""
    _, others = configfile.taken_out(options)
    for option in (other for other in others if "=" not in other):
        file = configuration(option)
        if file.name == CONFIG and file.is_file() and "models" in configfile.read(file):
            raise ConfigError(
                f"{option}: the study comes first: `ptqflow run {option} {' '.join(o for o in options if o != option)}`"
            )
