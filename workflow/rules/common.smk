# The study, read once; how a stage is called.
import fcntl
import json
import os

from collections import Counter

from ptqflow import asked, environments, paths, planned, profiles, warm
from ptqflow import site as sites
from ptqflow.checked import load
from ptqflow.devices import visible
from ptqflow.environment import VARIABLES
from ptqflow.environments import CORE
from ptqflow.jobs import Jobs, code
from ptqflow.platforms import PLATFORMS
from ptqflow.reporting import catalogue
from ptqflow.restored import Records, adopt, at_the_end
from ptqflow.scheduling import take_off_default_limit
from ptqflow.table_jobs import TableJobs

try:
    for file in workflow.configfiles:
        check_configfile(file)
    study = load(config)
    if workflow.is_main_process:
        given = workflow.config_settings.config
        profiles.refuse_lost(sys.argv[1:], workflow.workdir_init, study, given)
    site = sites.load(study.site)
    for served in (*study.suites.values(), *study.latency.values()):
        site.python(environments.of_engine(served.engine))
except PtqflowError as error:
    raise WorkflowError(str(error)) from None


include: "site.smk"


try:
    paths.refuse_older(study.platform)
except PtqflowError as error:
    raise WorkflowError(str(error)) from None

jobs, table_jobs = Jobs(study), TableJobs(study)

# Every Snakemake of this study shares this lock as long as it lives: run-study removes Snakemake's own only when nobody has it.
try:
    Path(".ptqflow").mkdir(exist_ok=True)
    active = open(".ptqflow/active", "a")
    fcntl.flock(active, fcntl.LOCK_SH)
except OSError:
    pass  # nothing runs in a folder that cannot be written


# Results that were copied here, or put back from a backup: their records come along, and what holds something else than its job
# wrote is made again.
if workflow.is_main_process:
    # Of a plan nothing is noted: another run of this study may be under way, and end by what it was asked.
    if not asked.plans_only(sys.argv[1:]):
        asked.remember(study)
    adopt()
    if others := Records().mark():
        listed = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        print(
            f"not what their jobs wrote (edited, put back from a backup, or cut off), and made again with what follows: {listed} "
            f"({len(others)} in all)",
            file=sys.stderr,
        )


onsuccess:
    at_the_end()


onerror:
    at_the_end()


# Jobs that run on this machine know of each other: who has loaded a model asks it for the others, too. On a CPU and a GPU they
# share what they load: CUDA is opened, and its variables are read, at the first use. torch_npu reads variables as it is loaded,
# before a job has claimed its device.
onstart:
    take_off_default_limit(workflow.scheduler)
    if workflow.local_exec:
        if study.platform != "ascend":
            warm.announce(
                Counter(job.rule.name for job in workflow.dag.needrun_jobs())
            )
        planned.announce(
            [
                planned.Ask(
                    platform=job.wildcards.platform,
                    checkpoint=job.input.checkpoint,
                    output=job.output[0],
                    settings=json.loads(job.params.settings),
                    code=job.params.code,
                )
                for job in workflow.dag.needrun_jobs()
                if job.rule.name == "generate"
            ]
        )


ENGINE = "engine"  # the environment of the engine that a job is of
# Threads are as many as the rule says.
ENVIRONMENT = " ".join(f"{name}={value}" for name, value in VARIABLES.items())
# Where the code lies is no part of a command: a study that is moved runs nothing again.
os.environ.update(PTQFLOW_CODE=f"{workflow.basedir}/workflow")
site.carry(os.environ)
PTQFLOW = f'OMP_NUM_THREADS={{threads}} {ENVIRONMENT} HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH="$PTQFLOW_CODE"'


def ptqflow(family):
    """How a stage is called in an environment. Jobs of an engine have its interpreter as a resource: another one reruns nothing."""
    return f"{PTQFLOW} {'{resources.python:q}' if family == ENGINE else environments.python(family)} -m ptqflow"


def python_of(w):
    """The interpreter of an engine's environment."""
    return site.python(environments.of_engine(w.engine))


def qparams(w):
    """The integers and scales of every chunk of a recipe."""
    if study.recipes[w.recipe].rescue is not None:
        return [paths.rescued("qparams.safetensors", w.platform, w.model, w.recipe)]
    return chunks_of(w, "qparams.safetensors")


def chunks_of(w, file):
    """A file of every chunk of a recipe."""
    return [
        paths.quantized(file, w.platform, w.model, w.recipe, k)
        for k in range(study.models[w.model].chunks)
    ]


def source(w):
    """The model that a recipe quantizes, rotated or not."""
    return paths.model(study.source_of(w.model, w.recipe))


def tokens_of(w):
    """The calibration text of a recipe, of its model."""
    return paths.tokens(
        study.source_of(w.model, w.recipe), study.calibration_of(w.recipe)
    )


def states_of(w):
    """Option and file that say what enters a chunk: tokens where they are enough, so that nothing waits for collect in vain.

    Where no states run they are enough for every chunk.
    """
    source, calibration = study.source_of(w.model, w.recipe), study.calibration_of(
        w.recipe
    )
    first = int(w.chunk) == 0 or not study.runs_states(w.recipe)
    if first and not study.recipes[w.recipe].reads_statistics():
        return "--tokens", paths.tokens(source, calibration)
    return "--calibration", paths.calibration(w.platform, source, calibration)


wildcard_constraints:
    platform="|".join(PLATFORMS),
    part="models|notices",
    model=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?",
    rotation=r"[A-Za-z0-9_-]+",
    calibration=r"[A-Za-z0-9_-]+(@\d+)?",
    recipe=r"[A-Za-z0-9_-]+(@\d+)?",
    chunk=r"\d+",
    form=r"[A-Za-z0-9_-]+",
    variant=r"baseline(@\d+)?|[A-Za-z0-9_-]+(@\d+)?\.[A-Za-z0-9_-]+",
    task=r"[A-Za-z0-9_-]+",
    seed=r"-?\d+",
    engine=r"[A-Za-z0-9_-]+",
    timing=r"[A-Za-z0-9_-]+",
