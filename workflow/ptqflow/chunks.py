"""Cut a model's decoder blocks into chunks: runs of blocks that are quantized as independent jobs."""

from itertools import pairwise

from ptqflow.errors import ConfigError


def chunk_layers(num_layers: int, chunks: int) -> list[range]:
    """`chunks` contiguous runs that cover all layers; lengths differ by at most one, longer runs first.

    Raises ConfigError unless 1 <= chunks <= num_layers.
    """
    if not 1 <= chunks <= num_layers:
        raise ConfigError(f"chunks {chunks} does not fit a model of {num_layers} decoder blocks; use 1 to {num_layers}")
    length, longer = divmod(num_layers, chunks)
    starts = [k * length + min(k, longer) for k in range(chunks + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]
