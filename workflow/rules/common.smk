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

# Threads are as many as the rule says and spin only briefly before they sleep: processes that oversubscribe a CPU would lose a
# factor of ten and more, threads that never spin a fifth. Freed memory is kept, in huge pages: passes through blocks would spend a
# fifth of their time on page faults. Other C libraries than glibc do not read the second.
ENVIRONMENT = "OMP_NUM_THREADS={threads} GOMP_SPINCOUNT=1000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=536870912:glibc.malloc.mmap_threshold=33554432"
PTQFLOW = f"{ENVIRONMENT} HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH=workflow python -m ptqflow"


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
