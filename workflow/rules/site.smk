# Where jobs run, as the site says: the only rules that know of Slurm and of containers. Nothing here changes a result.
from snakemake_interface_executor_plugins.settings import DeploymentMethod


def placed(devices):
    """Resources of a job that needs so many devices: `accelerator` counts those of one machine, the others are Slurm's."""
    asked = site.slurm.options(devices) if site.slurm else {}
    return {"accelerator": devices} | {k: v for k, v in asked.items() if v is not None}


host_job, device_job = placed(0), placed(1)
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
    site.enter(os.environ, on_node=in_slurm_job or site.slurm is None)
except PtqflowError as error:
    raise WorkflowError(f"{study.site}: {error}") from None
# Slurm tells a job of its GPUs alone.
if in_slurm_job and site.slurm.gres and study.platform in visible.VARIABLES:
    if given := slurm.allocated(site.slurm.gres, os.environ):
        os.environ[visible.VARIABLES[study.platform]] = ",".join(given)
# Stand-ins for devices: jobs ask for them and see theirs; the CPU computes, and its results are filed as the CPU's.
if site.stand_in:
    os.environ[visible.STANDS_FOR] = study.platform
    study = study.model_copy(update={"platform": "cpu"})
