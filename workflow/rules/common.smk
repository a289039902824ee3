# The study, read once; how a stage is called.
import fcntl

from ptqflow import environments, paths
from ptqflow.environment import VARIABLES
from ptqflow.environments import CORE
from ptqflow.jobs import Jobs, code
from ptqflow.platforms import PLATFORMS
from ptqflow.reporting import catalogue
from ptqflow.study import load

try:
    for file in workflow.configfiles:
        check_configfile(file)
    study = load(config)
    for asked in (*study.suites.values(), *study.latency.values()):
        environments.python(environments.of_engine(asked.engine))
    paths.refuse_older(study.platform)
except PtqflowError as error:
    raise WorkflowError(str(error)) from None

jobs = Jobs(study)

# Every Snakemake of this study shares this lock as long as it lives: run-study removes Snakemake's own only when nobody has it.
try:
    Path(".ptqflow").mkdir(exist_ok=True)
    active = open(".ptqflow/active", "a")
    fcntl.flock(active, fcntl.LOCK_SH)
except OSError:
    pass  # nothing runs in a folder that cannot be written

ENGINE = "engine"  # the environment of the engine that a job is of
# Threads are as many as the rule says.
ENVIRONMENT = " ".join(f"{name}={value}" for name, value in VARIABLES.items())
PTQFLOW = f"OMP_NUM_THREADS={{threads}} {ENVIRONMENT} HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH=workflow"


def ptqflow(family):
    """How a stage is called in an environment. Jobs of an engine have its interpreter as a resource: another one reruns nothing."""
    return f"{PTQFLOW} {'{resources.python}' if family == ENGINE else environments.python(family)} -m ptqflow"


def python_of(w):
    """The interpreter of an engine's environment."""
    return environments.python(environments.of_engine(w.engine))


wildcard_constraints:
    platform="|".join(PLATFORMS),
    model=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?",
    rotation=r"[A-Za-z0-9_-]+",
    calibration=r"[A-Za-z0-9_-]+(@\d+)?",
    recipe=r"[A-Za-z0-9_-]+(@\d+)?",
    chunk=r"\d+",
    form=r"[A-Za-z0-9_-]+",
    variant=r"baseline|[A-Za-z0-9_-]+(@\d+)?\.[A-Za-z0-9_-]+",
    task=r"[A-Za-z0-9_-]+",
    seed=r"-?\d+",
    engine=r"[A-Za-z0-9_-]+",
    timing=r"[A-Za-z0-9_-]+",
