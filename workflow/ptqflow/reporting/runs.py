"""What a variant scored on a task, by item and seed: samples with completions averaged, and replicates of a recipe joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import pandas as pd
import pyarrow as pa

from ptqflow.errors import ArtifactError
from ptqflow.evaluation import statistics
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.reporting.variants import Served
from ptqflow.words import counted

AVERAGE = "average"
PERPLEXITY = "perplexity"
READS = ["task", "kind", "item", "seed", "completion", "prompt_sha256", "completion_tokens", "finish_reason"]
READS += ["nll", "correct", "unscored"]


@dataclass(frozen=True)
class Runs:
    """One variant on one task: of each replicate a frame indexed by (item, seed) with `value` (mean over completions of correct,
    or summed nll), `tokens`, `prompt` and `samples`; `truncated` is the share of completions that hit the token limit (None:
    nothing was generated); `unscored`: how many samples have no verdict, by reason. The frames are of the others.
    """

    kind: str
    frames: tuple[pd.DataFrame, ...]
    truncated: float | None
    unscored: dict[str, int]

    @property
    def collapsed(self) -> bool:
        """Whether logits were no numbers: a score of what is left would flatter the model."""
        return NOT_FINITE.unscored in self.unscored

    @property
    def scored(self) -> bool:
        """Whether there is a score: something has a verdict, in every replicate, and the model did not collapse."""
        return not self.collapsed and len(self.index) > 0

    @property
    def note(self) -> str | None:
        """What has no verdict, and why."""
        said = [f"{counted(count, 'sample')} without a verdict: {reason}" for reason, count in self.unscored.items()]
        return "; ".join(said) or (None if len(self.index) else "no item and seed that every replicate has")

    @property
    def metric(self) -> str:
        """`perplexity` or `accuracy`."""
        return PERPLEXITY if self.kind == PERPLEXITY else "accuracy"

    @cached_property
    def index(self) -> pd.MultiIndex:
        """The (item, seed) pairs that every replicate has."""
        return reduce(pd.MultiIndex.intersection, (frame.index for frame in self.frames)).sort_values()

    def samples(self, only: pd.MultiIndex | None = None) -> float:
        """Completions per item of one replicate, all seeds together."""
        index = self.index if only is None else only
        return float(self.frames[0].loc[index, "samples"].sum() / index.get_level_values("item").nunique())

    def count(self, level: str) -> int:
        """Distinct items or seeds."""
        return int(self.index.get_level_values(level).nunique())

    def items(self, column: str, only: pd.MultiIndex | None = None) -> statistics.Floats:
        """Mean of `column` per item (in sorted order) over its seeds and replicates, of all runs or `only` these."""
        return np.asarray(self.each(column, only).mean(0))

    def each(self, column: str, only: pd.MultiIndex | None = None) -> statistics.Floats:
        """The same of each replicate, [replicates, items]."""
        index = self.index if only is None else only
        item, seed = (index.get_level_values(level).to_numpy() for level in ("item", "seed"))
        return np.stack([statistics.item_means(item, seed, f.loc[index, column].to_numpy(float)) for f in self.frames])


def gather(samples: Sequence[tuple[Served, pa.Table]]) -> dict[Served, dict[str, Runs]]:
    """Runs by variant and task from tables with the columns READS of schema SAMPLES; files of one variant are concatenated.

    Raises ArtifactError when a sample occurs twice or an accuracy sample says neither right nor wrong.
    """
    tables: dict[Served, list[pa.Table]] = {}
    for variant, table in samples:
        tables.setdefault(variant, []).append(table)
    found: dict[Served, dict[str, list[Runs]]] = {}
    for variant in sorted(tables, key=lambda variant: variant.replicate):  # stable: in the order in which variants appear
        tasks = found.setdefault(variant.model_copy(update={"replicate": 0}), {})
        for task, runs in _tasks(variant, pa.concat_tables(tables[variant])).items():
            tasks.setdefault(task, []).append(runs)
    return {variant: {task: _joined(each) for task, each in tasks.items()} for variant, tasks in found.items()}


def _joined(each: Sequence[Runs]) -> Runs:
    if len(each) == 1:
        return each[0]
    unscored: dict[str, int] = {}
    for reason, count in (entry for runs in each for entry in runs.unscored.items()):
        unscored[reason] = unscored.get(reason, 0) + count
    cut = [runs.truncated for runs in each if runs.truncated is not None]
    frames = tuple(frame for runs in each for frame in runs.frames)
    return Runs(each[0].kind, frames, float(np.mean(cut)) if cut else None, unscored)


def _tasks(variant: Served, samples: pa.Table) -> dict[str, Runs]:
    # Asked of Arrow, since pandas cannot tell a null from a loss that is not a number, as a collapsed model has.
    null = {column: samples[column].is_null().to_numpy() for column in ("nll", "correct")}
    frame = samples.to_pandas()
    frame["missing"] = np.where(frame["kind"] == PERPLEXITY, null["nll"], null["correct"] & frame["unscored"].isna())
    repeated = frame.duplicated(["task", "item", "seed", "completion"])
    if repeated.any():
        task, item, seed = frame.loc[repeated, ["task", "item", "seed"]].iloc[0]
        raise ArtifactError(
            f"{variant}: task {task} item {item} seed {seed} occurs twice; let one suite only hold this task and seed"
        )
    found = {}
    for task, part in frame.groupby("task", sort=False):
        kind, name = str(part["kind"].iloc[0]), str(task)
        value = part["nll"] if kind == PERPLEXITY else part["correct"]
        if name == AVERAGE or part["missing"].any():
            raise ArtifactError(f"{variant}: task {name}: a sample without a score, or a task named 'average'; evaluate it again")
        unscored = {str(reason): int(count) for reason, count in part["unscored"].value_counts().items()}
        reason = part["finish_reason"].dropna()
        part = part.assign(value=value)[part["unscored"].isna()].astype({"value": float})
        cells = part.groupby(["item", "seed"]).agg(
            value=("value", "mean"),
            tokens=("completion_tokens", "mean"),
            prompt=("prompt_sha256", "first"),
            samples=("value", "size"),
        )
        found[name] = Runs(kind, (cells,), float((reason == "length").mean()) if len(reason) else None, unscored)
    return found


def common(variant: Served, task: str, runs: Runs, reference: Runs | None) -> pd.MultiIndex | None:
    """The (item, seed) pairs of both; None without a reference or without any. Both must have been asked the same."""
    if reference is None:
        return None
    pairs = runs.index.intersection(reference.index).sort_values()
    columns = ["prompt", "tokens"] if runs.kind == PERPLEXITY else ["prompt"]
    for frame in runs.frames:
        differs = (frame.loc[pairs, columns] != reference.frames[0].loc[pairs, columns]).any(axis=1)
        if differs.any():
            item, seed = differs.index[differs.argmax()]
            raise ArtifactError(
                f"{variant}: task {task}: {differs.sum()} prompts differ from the baseline's (first: item {item}, seed {seed}); "
                "evaluate both with the same tokenizer and settings"
            )
    return pairs if len(pairs) else None


def paired(reference: Runs, runs: Runs, pairs: pd.MultiIndex) -> statistics.Paired:
    """The item means of both on these (item, seed) pairs."""
    each = runs.each("value", pairs)
    samples = min(reference.samples(pairs), runs.samples(pairs))
    return statistics.Paired(
        reference.items("value", pairs), np.asarray(each.mean(0)), samples, each, replicates_before=len(reference.frames)
    )
