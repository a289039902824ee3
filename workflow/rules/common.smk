# The study, read once; paths of the variants; how a stage is called.
sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from ptqflow.errors import PtqflowError
from ptqflow.jobs import Jobs, checkpoint, code
from ptqflow.study import load

try:
    study = load(config)
except PtqflowError as error:
    raise WorkflowError(str(error)) from None

jobs = Jobs(study)

# Threads wait passively and are as many as the rule says: two processes that oversubscribe a CPU lose a factor of a hundred.
PTQFLOW = "OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=passive HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH=workflow python -m ptqflow"


wildcard_constraints:
    platform="cpu|gpu|ascend",
    model=r"[A-Za-z0-9_-]+",
    calibration=r"[A-Za-z0-9_-]+",
    recipe=r"[A-Za-z0-9_-]+",
    chunk=r"\d+",
    form=r"[A-Za-z0-9_-]+",
    variant=r"baseline|[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
    suite=r"[A-Za-z0-9_-]+",
    seed=r"-?\d+",
    engine=r"[A-Za-z0-9_-]+",
