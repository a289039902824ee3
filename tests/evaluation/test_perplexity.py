"""Perplexity equals the loss transformers computes on the same windows."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import read_table
from ptqflow.cli import main
from ptqflow.evaluation.requests.perplexity import windows
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.quantizer import quantization_config
from ptqflow.recipes import Recipe
from talking_models import cpu_engine, talking_model


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(2, 9))
def test_windows_are_the_streams_head_without_overlap(tokens: list[int], length: int) -> None:
    found = windows(tokens, length)
    assert found.shape == (len(tokens) // length, length)
    assert found.flatten().tolist() == tokens[: found.numel()]


def run(manifest: Path, tmp_path: Path, **changes: object) -> tuple[int, Path]:
    data, output = tmp_path / "test.jsonl", tmp_path / "generations.parquet"
    texts = ["The quick brown fox. " * 4, "", "  jumps over\n", "the lazy dog " * 9]
    data.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    settings = {"task": "prose", "benchmark": "text", "source": {"path": str(data)}, "batch_size": 2}
    settings |= {"protocol": {"window": 32} | changes}
    options = ["--platform", "cpu", "--checkpoint", str(manifest), "--output", str(output)]
    return main(["generate", "--settings", json.dumps(settings), *options]), output


def test_stage_equals_transformers_own_loss(tmp_path: Path) -> None:
    manifest = talking_model(tmp_path / "model")
    status, output = run(manifest, tmp_path)
    assert status == 0
    rows = read_table(output, GENERATIONS).to_pylist()
    engine = cpu_engine(manifest.parent)
    text = "\n\n".join(json.loads(line)["text"] for line in (tmp_path / "test.jsonl").open())
    stream = torch.tensor(engine.tokenizer(text).input_ids)
    assert stream[0] == 1  # one BOS, where the stream begins
    assert len(rows) == len(stream) // 32 > 4
    losses = []
    for index, row in enumerate(rows):
        window = stream[None, index * 32 : (index + 1) * 32]
        with torch.no_grad():
            losses.append(engine.model(window, labels=window).loss.item())
        assert row["nll"] / row["completion_tokens"] == pytest.approx(losses[-1], rel=1e-5)
    by_windows = math.exp(sum(losses) / len(losses))
    by_tokens = math.exp(sum(row["nll"] for row in rows) / sum(row["completion_tokens"] for row in rows))
    assert by_windows == pytest.approx(by_tokens, rel=1e-5)


def test_fake_quantized_checkpoint_is_evaluated_quantized(tmp_path: Path) -> None:
    manifest = talking_model(tmp_path / "model")
    _, output = run(manifest, tmp_path)
    plain = read_table(output, GENERATIONS).column("nll").to_pylist()
    config_file = manifest.parent / "config.json"
    recipe = Recipe.model_validate(
        {
            "scheme": {"input_activations": {"num_bits": 4, "symmetric": False}, "kv_cache": {"num_bits": 4}},
            "rounding": {"name": "rtn"},
        }
    )
    config = json.loads(config_file.read_text()) | {
        "quantization_config": quantization_config(recipe),
        "attn_implementation": ATTENTION_NAME,
    }
    config_file.write_text(json.dumps(config))
    Manifest.of_folder(manifest.parent, Manifest.read(manifest).files, {}).write(manifest.parent)
    status, output = run(manifest, tmp_path)
    assert status == 0
    quantized = read_table(output, GENERATIONS).column("nll").to_pylist()
    assert all(a != pytest.approx(b, rel=1e-4) for a, b in zip(plain, quantized, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"window": 512}, "fewer than one window of 512"), ({"window": 1024}, "exceeds the model's 512 positions")],
)
def test_impossible_windows_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, int], message: str
) -> None:
    status, output = run(talking_model(tmp_path / "model"), tmp_path, **changes)
    assert status == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_limit_counts_windows(tmp_path: Path) -> None:
    _, output = run(talking_model(tmp_path / "model"), tmp_path, limit=3)
    assert read_table(output, GENERATIONS).column("item").to_pylist() == ["000000", "000001", "000002"]


def test_bfloat16_logits_are_normalized_in_float32(tmp_path: Path) -> None:
    engine = cpu_engine(talking_model(tmp_path).parent)
    engine.model.to(torch.bfloat16)
    batch = torch.randint(3, 261, (3, 40), generator=torch.Generator().manual_seed(0))
    nll = torch.cat([nll for _, nll in engine.score(batch, 2)])
    with torch.no_grad():
        exact = torch.cat([engine.model(rows).logits for rows in batch.split(2)])[:, :-1].double().log_softmax(-1)
    assert torch.allclose(nll, -exact.gather(-1, batch[:, 1:, None]).squeeze(-1), rtol=1e-5)
