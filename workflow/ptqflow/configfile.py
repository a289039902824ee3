"""A configuration file as data: what is in it that would run, repeat itself or unfold without end is refused before it is used.

Snakemake hands a file that says `__use_yte__: true` to a template engine, which runs the Python in it; YAML keeps the last of
two equal keys in silence, and a few lines of aliases stand for more values than there are atoms.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptqflow.errors import ConfigError

_MOST_VALUES = 1_000_000
_MOST_CHARACTERS = 1_000_000
_DEEPEST = 100
_CODE = "__use_yte__"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")  # octal and base 60, in YAML 1.1


def read(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML (or JSON) file that `check` has found to be data."""
    import yaml  # a requirement of Snakemake

    check(path)
    with _explained(path):
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{path}: keys with values belong here, key: value, one a line")
    return dict(value or {})


def check(path: str | Path) -> None:
    """Raise ConfigError for a file that is no YAML, runs code, states a key twice, or whose aliases unfold without end."""
    import yaml

    with _explained(path):
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(f"{path} has {len(text)} characters, more than any study needs; correct the path")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # step by step: to compose what is deep takes long, or crashes
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigError(f"{path} is nested more than {_DEEPEST} levels deep, and no study is; correct it")
        if (root := yaml.compose(text, Loader=yaml.SafeLoader)) is not None:
            _walk(root, str(path), "", {}, set())


def value_of(text: str, where: str, key: str) -> Any:
    """The value of a key in YAML, from a command line, checked as a file's. Raises yaml's errors for what is no YAML."""
    import yaml

    if (root := yaml.compose(text, Loader=yaml.SafeLoader)) is not None:
        _walk(root, where, f"{key}.", {}, set())
    return yaml.safe_load(text)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """What the system and YAML's reader say of a file, as a ConfigError."""
    import yaml

    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); correct the path or its permissions") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # its constructors let some of Python's through
        raise ConfigError(f"{path} is not YAML ({' '.join(str(error).split())}); correct it") from None


def _walk(node: Any, path: str, place: str, sizes: dict[int, int], within: set[int]) -> int:
    """Number of values that a YAML node unfolds to. Each is visited once, however many aliases point to it."""
    import yaml

    if id(node) in within:
        raise ConfigError(f"{path}: {place.removesuffix('.') or 'the file'} contains itself by an alias; write it out")
    if id(node) in sizes:
        return sizes[id(node)]
    within.add(id(node))
    total = 1
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _OTHER_NUMBER.fullmatch(node.value):
        raise ConfigError(
            f"{path}: {place.removesuffix('.')}: YAML reads {node.value} as another number (base 8 or 60); write it in base 10"
        )
    if isinstance(node, yaml.SequenceNode):
        total += sum(_walk(entry, path, place, sizes, within) for entry in node.value)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{path}: line {line}: a key is a name, not a list or mapping; correct it")
            name = f"{place}{key.value}"
            if key.value == _CODE:
                raise ConfigError(f"{path}: {name} (line {line}) would run Python from a configuration; remove it")
            if name in lines:
                raise ConfigError(f"{path}: {name} is there twice (lines {lines[name]} and {line}); rename or remove one")
            lines[name] = line
            total += _walk(value, path, f"{name}.", sizes, within)
    within.remove(id(node))
    sizes[id(node)] = total
    if total > _MOST_VALUES:
        raise ConfigError(
            f"{path}: the aliases of {place.removesuffix('.') or 'the file'} unfold to {total} values; write it out"
        )
    return total


def named_in(arguments: Sequence[str]) -> list[str]:
    """The configuration files among Snakemake's arguments, however they are given."""
    return taken_out(arguments)[0]


def taken_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The configuration files among Snakemake's arguments, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    found, others = parser.parse_known_args(arguments)
    return found.configfile, others
