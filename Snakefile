# ptqflow: which post-training quantization should I deploy, and what will it cost me?
# `config.yaml` says what; a profile (local, gpu, ascend) says where. Stages are commands: see workflow/rules and docs.
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")
sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from ptqflow.configfile import check as check_configfile
from ptqflow.errors import PtqflowError
from ptqflow.system import check_writable

# Before Snakemake reads it: a file that asks for its template engine would run Python.
try:
    if workflow.is_main_process:
        check_writable(".")
    if Path("config.yaml").exists():
        check_configfile("config.yaml")
except PtqflowError as error:
    raise WorkflowError(str(error)) from None


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/overlap.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/report.smk"


# Checkpoints are what a user deploys: they are asked for themselves, not only as what the tables are made of.
rule all:
    default_target: True
    input:
        table_jobs.promised(),
        [
            paths.table(name, suffix)
            for name, suffixes in catalogue.TABLES.items()
            for suffix in suffixes
            if suffix != "html"
        ],
        [paths.figure(name) for name in table_jobs.figures()],
        [paths.figure_for_print(name) for name in table_jobs.figures()],
        paths.REPORT,
