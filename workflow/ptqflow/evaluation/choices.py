"""Multiple choice by log-likelihood, through lighteval; the only module that knows lighteval's pipeline.

Around lighteval 0.13: its built-in tasks are kept out (importing them reaches for the network), the data and every cache live
in a temporary folder (its sample cache is keyed by the model's *name*, and would return another model's answers), logits are
float32, and the model's name is a label, never a path (it writes caches there). Contexts and continuations are tokenized apart.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ptqflow.artifacts.atomic import scratch_folder
from ptqflow.engines.transformers_engine import TransformersEngine
from ptqflow.errors import ConfigError
from ptqflow.evaluation.hashing import tokens_sha256
from ptqflow.evaluation.items import ChoiceItem
from ptqflow.evaluation.tasks import TaskConfig
from ptqflow.progress import Progress, progress

_TASK = "items"


def evaluate(
    name: str, task: TaskConfig, items: list[ChoiceItem], engine: TransformersEngine, seed: int, batch_size: int
) -> list[dict[str, Any]]:
    """One row per item: `choice_logprobs` in nats, `extracted` and `gold` as indices of alternatives.

    `extracted` is the alternative of the highest log-likelihood, divided by its continuation's characters where the task is
    normalized so: without the space that joins it to the context, as lm-eval's acc_norm. A single alternative is "0" when
    greedy decoding produces it, else null. So is the choice of a model whose log-likelihoods are no numbers.
    `completion_tokens` sums all alternatives.
    """
    # One document per context: an item with n contexts of one continuation each becomes n documents.
    documents: list[dict[str, Any]] = [
        {"query": context, "choices": list(item.continuations), "gold": item.gold if len(item.contexts) == 1 else 0}
        for item in items
        for context in item.contexts
    ]
    with progress(name, sum(len(d["choices"]) for d in documents), "alternatives") as bar:
        responses = iter(_loglikelihoods(documents, engine, batch_size, bar))
    by_characters = task.normalization == "characters"
    return [{"task": name, "seed": seed, **_row(item, [next(responses) for _ in item.contexts], by_characters)} for item in items]


def _row(item: ChoiceItem, responses: list[Any], by_characters: bool) -> dict[str, Any]:
    logprobs = [float(value) for response in responses for value in response.logprobs]
    lengths = [max(1, len(continuation.removeprefix(" "))) if by_characters else 1 for _, continuation in item.alternatives]
    contexts = [[int(token) for token in response.input_tokens] for response in responses]
    scored = [token for response in responses for row in response.output_tokens for token in row if int(token) >= 0]
    if any(math.isnan(logprob) for logprob in logprobs):
        extracted = None  # a model that collapsed prefers nothing; the largest would be the first, right now and then
    elif len(logprobs) == 1:
        extracted = "0" if responses[0].argmax_logits_eq_gold[0] else None
    else:
        extracted = str(max(range(len(logprobs)), key=lambda i: logprobs[i] / lengths[i]))
    return {
        "kind": "choice",
        "item": item.id,
        "completion": 0,
        "prompt_sha256": tokens_sha256([token for context in contexts for token in context]),
        "prompt_tokens": sum(map(len, contexts)),
        "completion_tokens": len(scored),
        "extracted": extracted,
        "gold": str(item.gold),
        "correct": extracted == str(item.gold),
        "choice_logprobs": logprobs,
    }


def _loglikelihoods(documents: list[dict[str, Any]], engine: TransformersEngine, batch_size: int, bar: Progress) -> list[Any]:
    """lighteval's ModelResponse of each document, in order."""
    with torch.no_grad(), scratch_folder() as place:  # no_grad: lighteval leaves gradients off
        folder = str(place)
        Path(folder, "data").mkdir()
        pq.write_table(pa.Table.from_pylist(documents), Path(folder, "data", "test-00000-of-00001.parquet"))
        with _quiet(), _lighteval_offline(folder), _float_logits(engine.model, bar):
            details = _run_pipeline(folder, engine, _rounded(batch_size, max(len(d["choices"]) for d in documents)))
    found = {int(detail.doc.id): detail.model_response for detail in details}  # lighteval shuffles; its ids are row numbers
    responses = [found[index] for index in range(len(documents))]
    for document, response in zip(documents, responses, strict=True):
        longest = len(response.input_tokens) + max(len(tokens) for tokens in response.output_tokens)
        if engine.max_length is not None and longest > engine.max_length:
            raise ConfigError(
                f"an item of {longest} tokens exceeds the model's {engine.max_length} positions: {document['query'][:60]!r}; "
                "use a model with more positions"
            )
    return responses


def _rounded(batch_size: int, choices: int) -> int:
    """lighteval counts a batch in alternatives and rounds to 8 documents; the nearest size that it takes as it is."""
    return 8 * choices * max(1, round(batch_size / (8 * choices)))


def _run_pipeline(folder: str, engine: TransformersEngine, batch_size: int) -> Sequence[Any]:
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
    from lighteval.tasks.lighteval_task import LightevalTaskConfig
    from lighteval.tasks.requests import Doc

    class Config(TransformersModelConfig):
        def get_model_sha(self) -> str:  # lighteval would ask the hub for a repository of this name
            return ""

    class Model(TransformersModel):
        disable_tqdm = True  # progress is reported by ours

    def document(line: dict[str, Any], task_name: str) -> Doc:
        return Doc(query=line["query"], choices=line["choices"], gold_index=line["gold"], task_name=task_name)

    module = ModuleType("ptqflow_lighteval_task")
    module.TASKS_TABLE = [  # type: ignore[attr-defined]
        LightevalTaskConfig(
            name=_TASK,
            prompt_function=document,
            hf_repo=folder,
            hf_subset="default",
            evaluation_splits=["test"],
            hf_avail_splits=["test"],
            metrics=[Metrics.loglikelihood_acc],
            stop_sequence=[],
        )
    ]
    config = Config(
        model_name="model",
        tokenizer=str(engine.folder),
        batch_size=batch_size,
        device=str(engine.model.device),
        override_chat_template=False,
        cache_dir=f"{folder}/cache",
    )
    pipeline = Pipeline(
        tasks=f"{_TASK}|0",
        pipeline_parameters=PipelineParameters(
            launcher_type=ParallelismManager.NONE, custom_tasks_directory=cast(str, module), bootstrap_iters=0
        ),
        evaluation_tracker=EvaluationTracker(output_dir=f"{folder}/results", save_details=False),
        model=Model.from_model(engine.model, config),
    )
    pipeline.evaluate()
    details: Sequence[Any] = pipeline.get_details()[f"{_TASK}|0"]
    return details


@contextmanager
def _lighteval_offline(folder: str) -> Iterator[None]:
    """Keep lighteval's built-in tasks unimported (it offers no switch) and the Arrow cache of `datasets` in `folder`."""
    import datasets.config
    from lighteval.tasks.registry import Registry

    with (
        patch.object(Registry, "_load_from_files", staticmethod(lambda files, module_prefix: {})),
        patch.object(Registry, "_load_from_subdirs", staticmethod(lambda subdirs: {})),
        patch.object(datasets.config, "HF_DATASETS_CACHE", Path(folder, "datasets")),
    ):
        yield


@contextmanager
def _float_logits(model: Any, bar: Progress) -> Iterator[None]:
    """Float32 logits, for lighteval sums log-probabilities in their dtype; also counts alternatives done."""

    def hook(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        bar.update(len(logits))
        return logits.float()

    handle = model.get_output_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors only from lighteval and datasets; progress is ours."""
    import datasets

    logger = logging.getLogger("lighteval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
