"""How much is drawn in the fast and the slow suite, and odd values of every type."""

import math
import string

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from ptqflow.evaluation.benchmark import known_benchmarks

SECONDS = 10  # no example takes longer


def fuzz(fast, slow):
    """Hypothesis settings of both suites, with a mark on the slow one."""
    quiet = {
        "deadline": None,
        "suppress_health_check": list(HealthCheck),
        "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    }
    return [
        pytest.param(settings(max_examples=fast, **quiet), id="fast"),
        pytest.param(settings(max_examples=slow, **quiet), id="slow", marks=pytest.mark.slow),
    ]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 3, 4, 7, 8, 16, 128, 2**31, 2**63, 10**9, 10**30, 0.5, -0.0, 1e300, math.inf, math.nan]),
    st.sampled_from(
        ["", " ", ".", "..", "/", "/etc/*", "a/../b", "**a", "[", "\0", "x" * 5000, "\ud800", "é", "a\nb", "none", "all"]
    ),
    st.sampled_from(["yes", "4", "4.0", "1e3", "0x10", "rtn", "gptq", "awq", "flatquant", "baseline", "average", "fake", "a.b"]),
    st.sampled_from([*known_benchmarks(), "__init__", "gsm8k.x", "math_500", "resources/demo-model", "resources/tasks/text"]),
    st.text(string.printable, max_size=6),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(scalars), inner, max_size=4)),
    max_leaves=8,
)
