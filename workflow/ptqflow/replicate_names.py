"""Names of replicates (`replicates`): `r@k` of recipe or calibration set `r`. Reaches no recipe: reports ask, too."""

MARK = "@"  # no name of a study holds it


def name(base: str, replicate: int) -> str:
    """The name of a replicate; number 0 is the recipe, or calibration set, itself."""
    return f"{base}{MARK}{replicate}" if replicate else base


def split(name: str) -> tuple[str, int]:
    """The recipe, or calibration set, and the number of a replicate."""
    base, _, replicate = name.partition(MARK)
    return base, int(replicate or 0)
