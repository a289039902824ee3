"""Where a real form and its baseline are equally fast, told from measured batch sizes."""

import pytest
from ptqflow.reporting.latency import crossings, printed

ROW = {"platform": "cpu", "model": "demo", "recipe": "rtn-w8a8", "form": "compressed-tensors", "engine": "transformers-int"}
ROW |= {"phase": "decode", "prompt_tokens": 64, "new_tokens": 16, "workload": None}
FILL = {"seconds_min": 1.0, "seconds_max": 1.0, "seconds_median": 1.0, "tokens_per_second": 1.0, "peak_bytes": 1}
FILL |= {"roofline_share": 0.5, "bound_by": "memory"}


def rows(speedups, **changes):
    return [ROW | FILL | {"batch_size": batch, "speedup": speedup} | changes for batch, speedup in speedups.items()]


@pytest.mark.parametrize(
    ("speedups", "batch", "below"),
    [
        ({1: 2.0, 4: 0.5}, 2.0, True),  # half way in both logarithms
        ({16: 2.0, 1: 0.5, 4: 0.5}, 8.0, False),  # in any order
        ({1: 0.5, 2: 2.0, 4: 0.5}, 2**0.5, False),  # the first
        ({1: 2.0, 4: 1.0, 8: 0.5}, 4.0, True),
    ],
)
def test_the_batch_size_at_which_both_are_equally_fast(speedups, batch, below):
    ((_, found, faster_below),) = crossings(rows(speedups))
    assert found == pytest.approx(batch)
    assert faster_below == below


def test_none_where_one_is_always_faster_or_nothing_was_compared():
    assert crossings(rows({1: 1.5, 8: 1.1})) == []
    assert crossings(rows({1: 2.0, 8: 0.5}, form=None)) == []  # the baseline itself
    assert crossings(rows({1: None, 8: None})) == []
    assert crossings([*rows({1: 2.0}), *rows({8: 0.5}, phase="prefill")]) == []  # of different phases


def test_the_table_says_so():
    notes = printed(rows({1: 2.0, 4: 0.5})).notes
    assert notes[1:] == [
        "rtn-w8a8, compressed-tensors, transformers-int, decode at 64 prompt tokens: as fast as the baseline near a batch of "
        "2.0, faster below."
    ]
