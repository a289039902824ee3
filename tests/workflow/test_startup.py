"""What a stage imports before it works is paid by each of its jobs: the large packages that each may load."""

import subprocess
import sys

import pytest
from interrupt import environment
from ptqflow import cli

LARGE = {"accelerate", "altair", "numpy", "pandas", "pyarrow", "scipy", "sympy", "torch", "transformers"}
# Which of LARGE `import ptqflow.stages.<stage>` may load. What a stage finds by name (an engine, a tokenizer, a benchmark) is
# imported when its settings are read; an engine not at all by a job that takes what another has asked.
MAY_LOAD = [
    (("fetch", "measure"), {"numpy"}),
    (("tokens", "generate", "score", "overlap", "samples"), {"numpy", "pyarrow"}),
    (("plot",), {"numpy", "pyarrow", "altair"}),
    (("aggregate", "report"), {"numpy", "pyarrow", "pandas", "scipy"}),
    (("selftest", "export", "verify"), {"numpy", "pyarrow", "torch"}),
    (("collect", "quantize", "rescue", "rotate"), LARGE - {"altair", "pandas"}),  # they run stock transformers modules
]


def loaded_by(modules):
    code = f"import sys, {', '.join(modules)}; print(*({LARGE!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(("stages", "allowed"), MAY_LOAD[:-1], ids=["-".join(stages) for stages, _ in MAY_LOAD[:-1]])
def test_a_stage_loads_no_large_package_that_it_may_do_without(stages, allowed):
    assert loaded_by(f"ptqflow.stages.{stage}" for stage in stages) <= allowed


def test_every_stage_is_in_the_table():
    assert sorted(stage for stages, _ in MAY_LOAD for stage in stages) == sorted(cli.STAGES)


def test_planning_loads_no_large_package():
    """What the Snakefile imports, and the commands that plan."""
    commands = (f"ptqflow.commands.{name.replace('-', '_')}" for name in cli.COMMANDS)
    assert loaded_by(["ptqflow.study", "ptqflow.jobs", "ptqflow.needs", "ptqflow.site", *commands]) <= {"numpy", "pyarrow"}
