"""Pareto frontiers: what no other point is at least as good as in everything, and better in something."""

from collections.abc import Sequence

Point = tuple[float | None, float | None, float | None]


def frontier(points: Sequence[Point]) -> list[bool]:
    """Whether each (loss, size, speed) is on the frontier: less loss, less size, more speed is better.

    Speed counts among those that all have one; a point without loss or size is on no frontier and dominates none.
    """
    known = [p for p in points if p[0] is not None and p[1] is not None]
    timed = bool(known) and all(p[2] is not None for p in known)

    def goodness(point: Point) -> tuple[float, ...] | None:
        loss, size, speed = point
        if loss is None or size is None:
            return None
        return (-loss, -size, *((speed,) if timed and speed is not None else ()))

    found = [goodness(p) for p in points]

    def dominated(one: tuple[float, ...]) -> bool:
        return any(other is not None and other != one and all(o >= m for o, m in zip(other, one, strict=True)) for other in found)

    return [one is not None and not dominated(one) for one in found]
