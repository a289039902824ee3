# The study, read once; how a stage is called.
import fcntl

from ptqflow import paths
from ptqflow.environment import VARIABLES
from ptqflow.jobs import Jobs, code
from ptqflow.platforms import PLATFORMS
from ptqflow.reporting import catalogue
from ptqflow.study import load

try:
    for file in workflow.configfiles:
        check_configfile(file)
    study = load(config)
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

# Threads are as many as the rule says.
ENVIRONMENT = " ".join(f"{name}={value}" for name, value in VARIABLES.items())
PTQFLOW = f"OMP_NUM_THREADS={{threads}} {ENVIRONMENT} HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH=workflow python -m ptqflow"


wildcard_constraints:
    platform="|".join(PLATFORMS),
    model=r"[A-Za-z0-9_-]+",
    calibration=r"[A-Za-z0-9_-]+",
    recipe=r"[A-Za-z0-9_-]+",
    chunk=r"\d+",
    form=r"[A-Za-z0-9_-]+",
    variant=r"baseline|[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
    task=r"[A-Za-z0-9_-]+",
    seed=r"-?\d+",
    engine=r"[A-Za-z0-9_-]+",
    timing=r"[A-Za-z0-9_-]+",
