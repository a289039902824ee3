"""Numbers as people say them."""


def counted(count: int, thing: str) -> str:
    """`1 item`, `30 items`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def span(seconds: float) -> str:
    """A duration: 1.5 s, 8 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
