"""A rotated model computes the same function, and every recipe and form takes it as its model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ptqflow import paths
from ptqflow.artifacts.atomic import canonical_json
from ptqflow.artifacts.manifests import Manifest
from ptqflow.cli import main
from ptqflow.methods.rotations.hadamard import hadamard, rotation
from ptqflow.methods.rotations.hadamard_settings import HadamardRotation
from ptqflow.modeling import rotation as folding
from ptqflow.recipes import Recipe
from ptqflow.stages import rotate
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, calibration_tokens, tiny_model
from transformers import AutoModelForCausalLM

SETTINGS = canonical_json({"rotation": {"name": "hadamard", "seed": 3}})


def rotated(model: Path, output: Path, settings: str = SETTINGS) -> int:
    return main(
        ["rotate", "--settings", settings, "--model", str(model / "manifest.json"), "--output", str(output / "manifest.json")]
    )


def logits(model: Path) -> torch.Tensor:
    """Of transformers itself, in float64."""
    tokens = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)(tokens).logits
    return found


@pytest.mark.parametrize("width", [1, 2, 12, 20, 28, 36, 64, 896, 1536])
def test_a_hadamard_matrix_is_of_ones_with_orthogonal_rows(width):
    matrix = hadamard(width)
    assert matrix is not None
    assert bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, width * torch.eye(width, dtype=torch.float64))


@pytest.mark.parametrize("width", [3, 6, 28, 128, 130])
def test_a_rotation_of_any_width_is_orthogonal_and_of_its_seed(width):
    q = rotation(width, HadamardRotation(name="hadamard"))
    torch.testing.assert_close(q @ q.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(q, rotation(width, HadamardRotation(name="hadamard")))
    assert not torch.equal(q, rotation(width, HadamardRotation(name="hadamard", seed=1)))


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen2", {}),
        ("qwen3", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"hidden_size": 120, "num_attention_heads": 4}),
        ("mistral", {}),
        ("phi3", {}),
    ],
)
def test_a_rotated_model_is_the_same_function(tmp_path, kind, more, shards):
    model = tiny_model(tmp_path / "model", kind, shards=shards, **more)
    for place in (".rotate", "additional_chat_templates"):
        (tmp_path / "rotated" / place).mkdir(parents=True)
    (tmp_path / "rotated/additional_chat_templates/tool.jinja").write_text("of an earlier model")
    assert rotated(model, tmp_path / "rotated") == 0
    Manifest.read(tmp_path / "rotated/manifest.json").verify(tmp_path / "rotated")  # nothing else that a loader would read
    expected, found = logits(model), logits(tmp_path / "rotated")
    assert (found - expected).norm() / expected.norm() < 1e-5  # float32 weights
    origin = Manifest.read(tmp_path / "rotated/manifest.json").origin
    assert origin["exact_error"] < 1e-9 < origin["stored_error"] < 1e-5
    config = json.loads((tmp_path / "rotated/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert (tmp_path / "rotated/chat_template.jinja").read_text() == "{{ messages }}"


def test_outliers_of_the_residual_stream_are_gone(tmp_path):
    model = tiny_model(tmp_path / "model")
    rotated(model, tmp_path / "rotated")
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "rotated").model.layers[0].self_attn.q_proj.weight
    plain = AutoModelForCausalLM.from_pretrained(model).model.layers[0]
    folded = plain.self_attn.q_proj.weight * plain.input_layernorm.weight
    assert weight.abs().amax() / weight.abs().mean() < 0.3 * folded.abs().amax() / folded.abs().mean()


def test_a_writer_that_the_rotation_does_not_know_is_refused(tmp_path, monkeypatch, capsys):
    model = tiny_model(tmp_path / "model")
    whole = folding.architecture_of
    monkeypatch.setattr(folding, "architecture_of", lambda c: replace(whole(c), sites=whole(c).sites[:3]))  # down_proj stays
    assert rotated(model, tmp_path / "rotated") == 2
    assert "use rotation none" in capsys.readouterr().err
    assert not (tmp_path / "rotated/manifest.json").exists()


def test_the_check_would_see_a_small_mistake(tmp_path):
    """One norm of one block that is not folded."""
    model = tiny_model(tmp_path / "model")
    rotated(model, tmp_path / "rotated")
    source, config = folding.Weights(model), json.loads((model / "config.json").read_text())
    wrong = folding.Rotated(source, config, rotation(128, HadamardRotation(name="hadamard", seed=3)))
    wrong._norms.remove("model.layers.1.input_layernorm.weight")
    exact, _ = rotate.errors(model, tmp_path / "rotated", wrong)
    assert exact > rotate.EXACT_LIMIT


def test_a_model_whose_logits_are_zero_is_turned(tmp_path):
    model = tiny_model(tmp_path / "model", layers=1)
    weights = load_file(model / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    Manifest.of_folder(model, [path.name for path in model.iterdir() if path.name != "manifest.json"], {}).write(model)
    assert rotated(model, tmp_path / "rotated") == 0
    assert Manifest.read(tmp_path / "rotated/manifest.json").origin["exact_error"] == 0


def test_a_folder_of_others_files_is_no_output(tmp_path, capsys, monkeypatch):
    """It would be emptied; the study's own place, as versions without marks left it, is known."""
    model = tiny_model(tmp_path / "model", layers=1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("years of work")
    assert rotated(model, Path()) == 2
    assert "holds files that rotate did not put there" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    place = Path(paths.rotated("m", "r")).parent
    place.mkdir(parents=True)
    (place / "tokenizer.json").write_text("of an older version")
    assert [rotated(model, place), rotated(model, place)] == [0, 0]


def test_a_recipe_takes_only_the_model_that_is_turned_as_it_says(tmp_path, capsys):
    model = tiny_model(tmp_path / "model", layers=1)
    rotated(model, tmp_path / "rotated")
    tokens = calibration_tokens(tmp_path / "tokens.parquet")
    scheme = {"weights": {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}}
    turned = Recipe.model_validate({"scheme": scheme, "rotation": {"name": "hadamard", "seed": 3}})
    other = Recipe.model_validate({"scheme": scheme, "rotation": {"name": "hadamard", "seed": 4}})
    plain = Recipe.model_validate({"scheme": scheme})
    assert (turned.rotation.label, plain.rotation.label) == ("hadamard-seed-3", None)

    def quantized(recipe: Recipe, folder: Path) -> int:
        settings = canonical_json({"recipe": recipe.dump(), "chunk": 0, "layers": [0, 1]})
        files = ["--qparams", str(tmp_path / "q.safetensors"), "--diagnostics", str(tmp_path / "d.parquet")]
        start = ["--model", str(folder / "manifest.json"), "--tokens", str(tokens)]
        return main(["quantize", "--settings", settings, *start, *files])

    assert quantized(turned, tmp_path / "rotated") == 0
    form = canonical_json({"recipe": turned.dump(), "form": "fake"})
    start = ["--model", str(tmp_path / "rotated/manifest.json"), "--qparams", str(tmp_path / "q.safetensors")]
    assert main(["export", "--settings", form, *start, "--output", str(tmp_path / "fake/manifest.json")]) == 0
    expected, found = logits(model), logits(tmp_path / "fake")
    assert (found - expected).norm() / expected.norm() < 0.3
    for recipe, folder in [(plain, tmp_path / "rotated"), (turned, model), (other, tmp_path / "rotated")]:
        assert quantized(recipe, folder) == 2
        assert "give the model" in capsys.readouterr().err
