# Where jobs run, as the site says: the only rules that know of Slurm and of containers. Nothing here changes a result.
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from ptqflow.needs import COMPUTES, Needs, name_of, within
from ptqflow.system import machine_memory

# On one machine the same file is read: there its `slurm` says nothing, and jobs are bounded by what the machine has.
if workflow.is_main_process and workflow.resource_settings.nodes is None:
    site = site.model_copy(update={"slurm": None})
on_head = site.slurm.head if site.slurm else ()  # rules that run beside Snakemake

if (
    site.image
    and workflow.is_main_process
    and DeploymentMethod.APPTAINER not in workflow.deployment_settings.deployment_method
):
    raise WorkflowError(
        f"{study.site}: image: jobs run in it with --software-deployment-method apptainer; add that, or leave the image out"
    )


# One image holds every family of packages (containers/).
container: site.image


in_slurm_job = site.slurm is not None and not workflow.is_main_process
try:
    site.enter(os.environ, in_slurm_job or site.slurm is None, study.platform)
    if in_slurm_job:
        site.slurm.tell_devices(study.platform, os.environ)
except PtqflowError as error:
    raise WorkflowError(f"{study.site}: {error}") from None
# Stand-ins for devices: jobs ask for them and see theirs; the CPU computes, and its results are filed as the CPU's.
if site.stand_in:
    os.environ[visible.STANDS_FOR] = study.platform
    study = study.model_copy(update={"platform": "cpu"})

needs = Needs(study)
# What one job can have at most: of this machine, or of a node of a partition.
node_limits = {}
if workflow.is_main_process and site.slurm:
    try:
        node_limits = site.slurm.limits(needs.most_ranks)
        needs.check(node_limits)
    except PtqflowError as error:
        raise WorkflowError(f"{study.site}: {error}") from None
elif workflow.is_main_process:
    if "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", machine_memory() // 2**20)
    known = (
        visible.devices(study.platform) if study.platform in visible.VARIABLES else []
    )
    if known and needs.most_ranks > len(known):
        raise WorkflowError(
            f"tensor_parallel {needs.most_ranks}: this machine has {len(known)} devices ({', '.join(known)}); use at most so many"
        )
    if known and "accelerator" not in workflow.global_resources:
        try:
            slots = visible.slots()
        except PtqflowError as error:
            raise WorkflowError(str(error)) from None
        workflow.register_resource("accelerator", len(known) * slots)


def threads_of(stage, least=1):
    """Cores of a job of a stage, `least` or more, but no more than a node has: a job that asks for more would wait for ever."""

    def asked(w):
        cores = max(least, needs.of(stage, w).threads)
        limits = node_limits.get(stage in COMPUTES)
        return min(cores, limits.cpus) if limits else cores

    return asked


def asks(stage, devices):
    """Resources of a job of a stage that needs so many devices for a model, or for each share of it: `accelerator` counts those of
    one machine, the rest is Slurm's.
    """
    options = site.slurm.options(devices) if site.slurm else {}
    if options.get("gres"):
        options["gres"] = lambda w: site.slurm.options(devices * needs.ranks(stage, w))[
            "gres"
        ]

    def asked(w, attempt):
        limits = node_limits.get(devices > 0)
        return within(needs.of(stage, w), attempt, limits, name_of(stage, w))

    return {
        "accelerator": lambda w: devices * needs.ranks(stage, w),
        "mem_mb": lambda w, attempt: asked(w, attempt).mem_mb,
        "runtime": lambda w, attempt: asked(w, attempt).minutes,
        **{name: value for name, value in options.items() if value is not None},
    }
