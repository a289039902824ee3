"""Every path of a study's results, once; rules, jobs and commands ask here. A wildcard that is left out stands for itself."""

from pathlib import Path

from ptqflow import environments
from ptqflow.errors import ConfigError
from ptqflow.platforms import PLATFORMS

ROOT = "results"
REFERENCE = environments.ROOT / "resources/reference"

RECORDS = f"{ROOT}/records.zip"  # what Snakemake has recorded of the results


def model(name: str = "{model}") -> str:
    """Manifest of a model as fetched, or, of `model.rotation`, as rotated."""
    base, _, rotation = name.partition(".")
    return rotated(base, rotation) if rotation else fetched("models", name)


def notices(model: str = "{model}") -> str:
    """Manifest of a model's card and licence, which travel with its checkpoints."""
    return fetched("notices", model)


def fetched(part: str = "{part}", model: str = "{model}") -> str:
    """Manifest of a part of a model as fetched (`artifacts.models.of_part`)."""
    return f"{ROOT}/{part}/{model}/manifest.json"


def rotated(model: str = "{model}", rotation: str = "{rotation}") -> str:
    """Manifest of a model whose residual stream is turned."""
    return f"{ROOT}/rotated/{model}/{rotation}/manifest.json"


_model = model  # below, `model` is a name of one


def reference() -> list[str]:
    """The files of published numbers; they are part of the repository, wherever the study lies."""
    return sorted(str(path) for path in REFERENCE.glob("*.csv"))


def selftest(platform: str = "{platform}") -> str:
    """Probes of a platform's device."""
    return f"{ROOT}/{platform}/selftest.parquet"


def tokens(model: str = "{model}", calibration: str = "{calibration}") -> str:
    """Windows of a calibration set."""
    return f"{ROOT}/calibration/{model}/{calibration}/tokens.parquet"


def overlap(model: str = "{model}", calibration: str = "{calibration}", task: str = "{task}") -> str:
    """How much of a task's items stands in a calibration set."""
    return f"{ROOT}/calibration/{model}/{calibration}/overlap/{task}.parquet"


def calibration(platform: str = "{platform}", model: str = "{model}", calibration: str = "{calibration}") -> str:
    """Manifest of channel statistics and hidden states at chunk boundaries."""
    return f"{ROOT}/{platform}/calibration/{model}/{calibration}/manifest.json"


def quantized(
    file: str, platform: str = "{platform}", model: str = "{model}", recipe: str = "{recipe}", chunk: int | str = "{chunk}"
) -> str:
    """A `file` that quantizing a chunk leaves: qparams.safetensors, diagnostics.parquet or losses.parquet."""
    return f"{ROOT}/{platform}/quantized/{model}/{recipe}/chunk={chunk}/{file}"


def rescued(file: str, platform: str = "{platform}", model: str = "{model}", recipe: str = "{recipe}") -> str:
    """A `file` that rescuing a recipe's blocks leaves: qparams.safetensors of all blocks, or rescue.parquet."""
    return f"{ROOT}/{platform}/rescued/{model}/{recipe}/{file}"


def checkpoint(platform: str = "{platform}", model: str = "{model}", variant: str = "{recipe}.{form}") -> str:
    """Manifest of what an engine loads: the model itself (`baseline`), or a recipe's checkpoint in some form."""
    if variant.partition("@")[0] == "baseline":
        return _model(model)
    recipe, form = variant.split(".")
    return f"{ROOT}/{platform}/checkpoints/{model}/{recipe}/{form}/manifest.json"


def repeated(batch_size: int) -> str:
    """The variant that is the baseline, asked once more in batches of another size."""
    return f"baseline@{batch_size}"


def batch_size(variant: str) -> int | None:
    """Of `repeated`; None of every other variant."""
    name, _, size = variant.partition("@")
    return int(size) if name == "baseline" and size else None


def verification(platform: str = "{platform}", model: str = "{model}", variant: str = "{recipe}.{form}") -> str:
    """Checks of a checkpoint."""
    recipe, form = variant.split(".")
    return f"{ROOT}/{platform}/verification/{model}/{recipe}/{form}.parquet"


def _run(stage: str, platform: str, model: str, variant: str, engine: str, task: str, seed: int | str) -> str:
    return f"{ROOT}/{platform}/{stage}/{model}/{variant}/{engine}/{task}/seed={seed}.parquet"


def generations(
    platform: str = "{platform}",
    model: str = "{model}",
    variant: str = "{variant}",
    engine: str = "{engine}",
    task: str = "{task}",
    seed: int | str = "{seed}",
) -> str:
    """What an engine said to one task at one seed."""
    return _run("generations", platform, model, variant, engine, task, seed)


def scores(
    platform: str = "{platform}",
    model: str = "{model}",
    variant: str = "{variant}",
    engine: str = "{engine}",
    task: str = "{task}",
    seed: int | str = "{seed}",
) -> str:
    """The verdicts on it."""
    return _run("scores", platform, model, variant, engine, task, seed)


def generations_of(scores: str) -> str:
    """What the verdicts of a file are on."""
    return scores.replace("/scores/", "/generations/", 1)


def latency(
    platform: str = "{platform}",
    model: str = "{model}",
    variant: str = "{variant}",
    engine: str = "{engine}",
    timing: str = "{timing}",
) -> str:
    """Timed repetitions of a checkpoint in an engine, as the entry `timing` of `latency` asks."""
    return f"{ROOT}/{platform}/latency/{model}/{variant}/{engine}/{timing}.parquet"


TABLES = f"{ROOT}/tables"


def table(name: str, suffix: str) -> str:
    """A table across the study, in one of its renderings."""
    return f"{TABLES}/{name}.{suffix}"


def figure(figure: str = "{figure}") -> str:
    """A picture drawn from tables."""
    return f"{ROOT}/figures/{figure}.svg"


def figure_for_print(figure: str = "{figure}") -> str:
    """The same as PDF."""
    return f"{ROOT}/figures/{figure}.pdf"


REPORT = f"{ROOT}/report.html"
SAMPLES = f"{ROOT}/samples.html"


def log(path: str) -> str:
    """The log of the job that writes `path`."""
    return f"{ROOT}/logs/{path.removeprefix(f'{ROOT}/').rpartition('.')[0]}.log"


def refuse_older(platform: str) -> None:
    """Raise ConfigError where another platform's results lie as versions before `generate` and `score` left them.

    This platform's are made anew; another's would be missing from the tables without a word.
    """
    for other in PLATFORMS:
        old = Path(ROOT, other, "evaluation")
        if other != platform and old.is_dir():
            raise ConfigError(
                f"{old} holds results of an older version, which no table of this one reads; "
                f"run the study on {other} again, or remove the folder"
            )
