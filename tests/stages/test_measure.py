"""Latency rows: every shape, phase and repetition once, with plausible clocks."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from ptqflow.artifacts.schemas import LATENCY
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.cli import main
from ptqflow.engines import work
from ptqflow.engines.protocol import Timing
from ptqflow.progress import progress
from ptqflow.stages.measure import Settings, Shape, measure
from talking_models import cpu_engine, talking_model

SETTINGS = {"batch_sizes": [1, 4], "prompt_tokens": [8, 128], "new_tokens": 16, "warmup": 1, "repetitions": 3}


def run(tmp_path: Path, **changes: object) -> tuple[int, Path]:
    manifest, output = talking_model(tmp_path / "model"), tmp_path / "latency.parquet"
    options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(output)]
    return main(["measure", "--settings", json.dumps(SETTINGS | changes), *options]), output


def test_every_repetition_of_every_shape_is_a_row(tmp_path: Path) -> None:
    status, output = run(tmp_path)
    assert status == 0
    written = read_table(output, LATENCY).to_pylist()
    rows = [row for row in written if row["part"] is None]
    keys = Counter((row["phase"], row["batch_size"], row["prompt_tokens"], row["repetition"]) for row in rows)
    assert set(keys.values()) == {1}
    assert len(keys) == 2 * 2 * 2 * 3
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert {row["new_tokens"] for row in rows if row["phase"] == "prefill"} == {0}
    assert {row["new_tokens"] for row in rows if row["phase"] == "decode"} == {16}
    fastest = {
        shape: min(r["seconds"] for r in rows if (r["phase"], r["batch_size"], r["prompt_tokens"]) == shape)
        for shape in {(row["phase"], row["batch_size"], row["prompt_tokens"]) for row in rows}
    }
    assert fastest["decode", 1, 8] > fastest["prefill", 1, 8]  # 16 forwards against one
    assert fastest["prefill", 4, 128] > fastest["prefill", 1, 8]
    metadata = read_metadata(output)
    assert "threads" in metadata
    assert metadata["readings"].keys() == {"before", "after"}  # what they hold is what this machine tells


def test_a_phase_is_its_forwards_between_synchronizations(tmp_path: Path) -> None:
    """Prefill is one forward of all prompts, decode one forward of one token per sequence for each new token."""
    engine, events = cpu_engine(talking_model(tmp_path).parent), []

    class Recorder:
        reset_peak = staticmethod(lambda: events.append("reset"))
        synchronize = staticmethod(lambda: events.append("synchronize"))
        peak_bytes = staticmethod(lambda: len(events))

    engine.device = Recorder()  # type: ignore[assignment]
    engine.model.register_forward_pre_hook(
        lambda module, args, inputs: events.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    timings = engine.time(torch.randint(261, (4, 8)), 3)
    phases = [[(4, 8)], [(4, 1)] * 3]
    assert events == [event for forwards in phases for event in ("reset", "synchronize", *forwards, "synchronize")]
    assert [timing.phase for timing in timings] == ["prefill", "decode"]


def test_warm_up_is_run_and_left_out() -> None:
    prompts, clock = [], iter(range(100))

    class Clockwork:
        vocab_size = 50

        def time(self, tokens: torch.Tensor, new_tokens: int) -> list[Timing]:
            prompts.append(tokens)
            return [Timing("prefill", next(clock), 1), Timing("decode", next(clock), 1)]

    settings = Settings(warmup=2, repetitions=3, new_tokens=5, parts=False)
    with progress("t", 5, "runs") as bar:
        rows = measure(Clockwork(), Shape(4, 7, 5), settings, bar)  # type: ignore[arg-type]
    assert [(row["phase"], row["repetition"], row["seconds"]) for row in rows] == [
        (phase, repetition, 4 + 2 * repetition + i) for repetition in range(3) for i, phase in enumerate(("prefill", "decode"))
    ]
    assert len(prompts) == 5
    assert all(tokens.shape == (4, 7) and torch.equal(tokens, prompts[0]) for tokens in prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "abacus"}, "use one of transformers"),
        ({"prompt_tokens": [600]}, "exceed the model's 512 positions"),
        ({"prompt_tokens": [500]}, "prompt_tokens 500 + new_tokens 16 exceed the model's 512 positions"),
    ],
)
def test_impossible_measurements_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    status, _ = run(tmp_path, **changes)
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_profiled_run_says_where_the_time_goes(tmp_path: Path) -> None:
    status, output = run(tmp_path, batch_sizes=[2], prompt_tokens=[32])
    assert status == 0
    rows = [row for row in read_table(output, LATENCY).to_pylist() if row["part"] is not None]
    assert {(row["phase"], row["part"]) for row in rows} == {
        (p, part) for p in ("prefill", "decode") for part in ("product", "other")
    }
    assert all(row["seconds"] > 0 for row in rows)
    assert {row["weight_bytes"] > 0 and row["cache_tokens"] > 0 and row["device_flops"] > 1e8 for row in rows} == {True}
    assert all("aten::addmm" in row["kernels"] or "aten::mm" in row["kernels"] for row in rows if row["part"] == "product")


def test_workloads_join_the_grid_and_are_checked_for_length() -> None:
    settings = Settings(batch_sizes=[1, 2], prompt_tokens=[8], new_tokens=4, workloads=["customary", "reasoning"])
    assert settings.shapes() == [
        *(Shape(1, 8, 4), Shape(2, 8, 4)),
        *(Shape(1, 3500, 1500, "customary"), Shape(2, 3500, 1500, "customary")),
        *(Shape(1, 128, 4096, "reasoning"), Shape(2, 128, 4096, "reasoning")),
    ]
    assert settings.longest() == Shape(1, 3500, 1500, "customary")
    with pytest.raises(ValueError, match="nothing would be timed"):
        Settings(prompt_tokens=[])


def test_work_is_that_of_the_model() -> None:
    """By hand: one block of 2 x 2 linears, a head of 5 x 2, one head of 2 channels."""
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 2, "intermediate_size": 2, "vocab_size": 5}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    blocks, head, attention = 7 * 4, 5 * 2, 4 * 2
    found = work.prefill(config, 3, 4, 100)
    assert found == work.Work(3 * (2 * blocks * 4 + 2 * head + attention * (1 + 2 + 3 + 4)), 100)
    cached = work.cache_bytes(config, 4)
    assert cached == 2 * 2 * 4
    found = work.decode(config, 3, 4, 2, 100, cached)
    assert found == work.Work(3 * (2 * (blocks + head) * 2 + attention * (5 + 6)), 2 * 100 + 3 * cached * (5 + 6))
    assert work.read_bytes(config | {"tie_word_embeddings": True}, 100, 2) == 100
    assert work.read_bytes(config | {"tie_word_embeddings": False}, 100, 2) == 100 - 2 * head


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"model_type": "mistral", "sliding_window": 3}, 3 + 3),
        ({"model_type": "mistral", "sliding_window": None}, 5 + 6),
        ({"model_type": "qwen2", "sliding_window": 3}, 5 + 6),  # which this type asks for apart
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}, (5 + 6 + 3 + 3) / 2),
        ({"model_type": "gemma2", "sliding_window": 3, "head_dim": 2}, (5 + 6 + 3 + 3) / 2),
    ],
)
def test_a_window_bounds_what_attention_reads_and_computes(change, seen) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 2, "intermediate_size": 2, "vocab_size": 5, "num_attention_heads": 1}
    config |= {"num_key_value_heads": 1} | change
    found = work.decode(config, 3, 4, 2, 100, 10)
    assert found.moved == 2 * 100 + 3 * 10 * seen
    rest = 2 * (2 * 7 * 4 + 5 * 2) * 2
    assert found.flops == 3 * (rest + 2 * 4 * 2 * seen)
