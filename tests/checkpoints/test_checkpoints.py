"""Checkpoints for engines: complete, exact, and read by transformers through compressed-tensors' own code."""

import json

import pytest
import torch
import yaml
from compressed_tensors.quantization import QuantizationConfig
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from ptqflow.artifacts.manifests import Manifest
from ptqflow.checkpoints import registry
from ptqflow.checkpoints.card import card
from ptqflow.checkpoints.server import vllm_on
from ptqflow.modeling.qparams import QParams
from ptqflow.modeling.weights import Weights
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from tiny_models import collect, export, quantize, stage, tiny_model
from transformers import AutoModelForCausalLM


def scheme(bits, symmetric=True, group=32, inputs=None, **more):
    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": "group" if group else "channel", "group_size": group}
    activations = {"input_activations": {"num_bits": inputs[0], "symmetric": inputs[1]}} if inputs else {}
    return resolve({"scheme": {"weights": weights, **activations}, **more})


ATTENTION_INPUTS = ["q_proj", "k_proj", "v_proj"]
KEPT = [{"layers": [0], "linears": ATTENTION_INPUTS, "weights": None}, {"layers": [1], "linears": ["o_proj"], "weights": None}]
MIXED = [*KEPT, {"layers": [1], "linears": ["down_proj"], "weights": {"num_bits": 8, "strategy": "channel"}}]
RECIPES = {
    "w8a8": scheme(8, group=None, inputs=(8, False)),
    "w8a8-symmetric-smooth": scheme(8, group=None, inputs=(8, True), transform={"name": "smoothquant"}),
    "w8a8-tensor": resolve({"scheme": {"weights": {"num_bits": 8, "strategy": "tensor"}, "input_activations": {"num_bits": 8}}}),
    "w8a8-static": resolve({"preset": "smoothquant-w8a8-static-ascend"}),
    "w4a16": scheme(4),
    "w4a16-asymmetric-awq": scheme(4, False, transform={"name": "awq"}),
    "w4a16-channel": scheme(4, group=None),
    "w4a16-channel-asymmetric": scheme(4, False, group=None),
    "w4a16-shards": scheme(4, group=None, input_shards=2),
    "w4a16-kept": scheme(4, overrides=KEPT),
    "w4a16-asymmetric-kept": scheme(4, False, overrides=KEPT),
    "w3a16": scheme(3, rounding={"name": "gptq"}),
    "w3a16-asymmetric": scheme(3, False),
    "w8a16": scheme(8),
    "w8a16-asymmetric": scheme(8, False),
    "w5a16-asymmetric": scheme(5, False),
    "w2a16": scheme(2),
    "w4a8": scheme(4, inputs=(8, False)),
    "w4a8-symmetric": scheme(4, inputs=(8, True)),
    "w4a8-asymmetric-weights": scheme(4, False, inputs=(8, True)),
    "w4a4": scheme(4, group=None, inputs=(4, True)),
    "mixed": scheme(4, overrides=MIXED),
    "mixed-asymmetric": scheme(4, False, overrides=MIXED),
}
FORMS = ("compressed-tensors", "autoawq", "gptq")
CASES = [(name, form) for name, recipe in RECIPES.items() for form in FORMS if registry.refusal(form, recipe, None) is None]
TOKENS = torch.randint(3, 64, (2, 20), generator=torch.Generator().manual_seed(1))


class Study:
    """A tiny model, its qparams by recipe, and its checkpoints, each made once."""

    def __init__(self, work, **options):
        self.model = tiny_model(work / "model", **options)
        self.calibration, self.work = collect(self.model, work), work

    def qparams(self, name):
        folder = self.work / name
        paths = sorted(folder.glob("chunk=*/qparams.safetensors"))
        return paths or quantize(self.model, self.calibration, RECIPES[name], folder)

    def checkpoint(self, name, form):
        folder = self.work / name / form
        if not folder.exists():
            export(self.model, self.qparams(name), RECIPES[name], folder, form)
        return folder

    def layout(self, name, form):
        config = json.loads((self.model / "config.json").read_text())
        return registry.layout(form)(Weights(self.model), QParams(self.qparams(name)), RECIPES[name], config)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("bfloat16"), dtype=torch.bfloat16, shards=True)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """In float32, so that transformers' arithmetic hides nothing; without outliers, so that rounding ties do not cascade."""
    return Study(tmp_path_factory.mktemp("float32"), dtype=torch.float32, outliers=False)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_checkpoint_holds_what_its_specification_says_and_nothing_else(name, form, study):
    folder, spec = study.checkpoint(name, form), study.layout(name, form).spec()
    checkpoint = Weights(folder)
    assert checkpoint.file_of.keys() == spec.keys()
    for key, expected in spec.items():
        assert checkpoint.header(key) == (expected.dtype, expected.shape)
        assert expected.mismatch(checkpoint[key]) is None, key
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(s.bytes for s in spec.values())
    stored = {part for prefix in study.layout(name, form).linears for part in (f"{prefix}.weight",) if part in spec}
    assert not stored or form == "compressed-tensors"  # bytes are called weight; nothing else is stored beside its packed form
    assert all(spec[part].dtype == torch.int8 for part in stored)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_integers_and_weights_read_back_are_those_of_qparams_and_of_the_fake_form(name, form, study):
    layout, checkpoint = study.layout(name, form), Weights(study.checkpoint(name, form))
    dense, fake = study.layout(name, "fake"), Weights(study.checkpoint(name, "fake"))
    assert layout.linears
    for prefix, linear in layout.linears.items():
        found = layout.read(checkpoint, linear)
        for part in ("integers", "zero_point"):
            expected = layout.qparams[f"{prefix}.{part}"]
            assert torch.equal(getattr(found, part), expected)
            assert getattr(found, part).dtype == expected.dtype
        assert torch.equal(found.scale, layout.qparams[f"{prefix}.scale"])
        assert torch.equal(found.dequantized().to(linear.dtype).float(), dense.read_weight(fake, linear))


@pytest.mark.parametrize("name", RECIPES)
def test_config_is_one_that_compressed_tensors_accepts(name, study):
    config = json.loads((study.checkpoint(name, "compressed-tensors") / "config.json").read_text())["quantization_config"]
    assert QuantizationConfig.model_validate(config).quantization_status.value == "compressed"


@pytest.mark.parametrize("name", ["w4a16", "w4a16-kept", "w4a16-channel", "w8a16", "mixed", "w8a8"])
def test_packed_bytes_are_what_the_blocks_linears_take_also_those_left_as_they_are(name, study):
    """A recipe must not look smaller for what it leaves in high precision."""
    folder = study.checkpoint(name, "compressed-tensors")
    checkpoint, origin = Weights(folder), Manifest.read(folder / "manifest.json").origin
    stored = [key for key in checkpoint.file_of if "_proj." in key and not key.endswith(("bias", "weight_shape"))]
    assert origin["packed_bytes"] == sum(checkpoint[key].nbytes for key in stored)
    linears = [key for key in Weights(study.model).file_of if key.endswith("_proj.weight")]
    assert origin["linear_weights"] == sum(Weights(study.model)[key].numel() for key in linears)
    assert origin["float_bytes"] == sum(Weights(study.model)[key].nbytes for key in linears)


# Symmetric inputs: compressed-tensors divides by 127.5 (7.5), ptqflow and vLLM by 127 (7), so that most integers of the inputs
# differ by a rounding: the two agree within the error that quantization makes.
SYMMETRIC_INPUTS = ("w8a8-symmetric-smooth", "w8a8-tensor", "w4a8-symmetric", "w4a4")
FAST = (
    "w8a8",
    "w8a8-tensor",
    "w8a8-static",
    "w4a16",
    "w4a16-asymmetric-awq",
    "w4a16-asymmetric-kept",
    "w3a16-asymmetric",
    "w4a8",
    "w4a4",
    "mixed",
)
UNREADABLE = ("w4a8-asymmetric-weights", "mixed-asymmetric")


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


def distance(a, b):
    """Root mean square difference of logits, relative to their standard deviation."""
    return ((a - b).square().mean().sqrt() / b.std()).item()


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name not in UNREADABLE],
)
def test_transformers_loads_compressed_tensors_and_agrees_with_the_fake_form(name, exact):
    fake, found = logits(exact.checkpoint(name, "fake")), logits(exact.checkpoint(name, "compressed-tensors"))
    if name in SYMMETRIC_INPUTS:
        assert distance(found, fake) < 1.2 * distance(fake, logits(exact.model))
    else:
        assert distance(found, fake) < (1e-5 if RECIPES[name].is_weight_only() else 0.01)


@pytest.mark.parametrize("name", UNREADABLE[:1])
def test_transformers_does_not_read_asymmetric_weights_beside_quantized_inputs_or_in_several_groups(name, exact):
    """A limit of transformers 5.23 with compressed-tensors 0.20 that docs/checkpoints.md states; this test notices its end."""
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        logits(exact.checkpoint(name, "compressed-tensors"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transformers_unpacks_the_very_weights_of_the_fake_form_in_half_precision(dtype, study):
    from compressed_tensors.compressors import BaseCompressor

    layout = study.layout("w4a16-asymmetric-awq", "compressed-tensors")
    config = QuantizationConfig.model_validate(layout.documents()["config.json"]["quantization_config"])
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    for linear in layout.linears.values():
        weight = layout.grid_weight(linear)
        tensors = layout.encode(linear, weight)
        tensors["weight_scale"] = tensors["weight_scale"].to(dtype)
        found = compressor.decompress(tensors, config.config_groups["group_0"])["weight"]
        assert torch.equal(found, weight.dequantized().to(dtype))


def test_everything_but_weights_is_carried_along_and_the_card_is_our_own(tmp_path):
    model = tiny_model(tmp_path / "model")
    (model / "README.md").write_text("the float model's card")
    (model / "LICENSE").write_text("licence")
    Manifest.of_folder(model, [p.name for p in model.iterdir() if p.name != "manifest.json"], {}).write(model)
    calibration = collect(model, tmp_path)
    qparams = quantize(model, calibration, RECIPES["w4a16"], tmp_path)
    folder = export(model, qparams, RECIPES["w4a16"], tmp_path / "out", "gptq")
    assert (folder / "README.source.md").read_text() == "the float model's card"
    text = (folder / "README.md").read_text()
    assert "Weights in 4-bit symmetric integers, one scale per 32 inputs of a row" in text
    assert "Form `gptq`" in text
    assert "vllm serve" in text
    files = set(Manifest.read(folder / "manifest.json").files)
    carried = {"LICENSE", "README.source.md", "README.md", "chat_template.jinja", "config.json", "generation_config.json"}
    assert files == carried | {"model.safetensors", "ptqflow.json", "quantize_config.json"}
    before = {name: entry.sha256 for name, entry in Manifest.read(folder / "manifest.json").files.items()}
    export(model, qparams, RECIPES["w4a16"], folder, "gptq")
    assert {name: entry.sha256 for name, entry in Manifest.read(folder / "manifest.json").files.items()} == before


def test_a_card_and_licence_that_were_fetched_apart_are_carried_along_as_they_are(study, tmp_path):
    notices = tmp_path / "notices"
    notices.mkdir()
    (notices / "README.md").write_text("---\nlicense: mit\n---\nthe float model's card")
    (notices / "LICENSE").write_text("licence")
    manifest = Manifest.of_folder(notices, ["README.md", "LICENSE"], {})
    manifest.write(notices)
    options = ["--model", study.model / "manifest.json", "--notices", notices / "manifest.json"]
    options += ["--qparams", *study.qparams("w4a16")]
    settings, folder = {"recipe": RECIPES["w4a16"].dump(), "form": "gptq"}, tmp_path / "out"
    assert stage("export", settings, *options, "--output", folder / "manifest.json") == 0
    assert (folder / "README.source.md").read_bytes() == (notices / "README.md").read_bytes()
    assert (folder / "LICENSE").read_text() == "licence"
    assert ModelCard.load(folder / "README.md").data.license == "mit"
    made = Manifest.read(folder / "manifest.json")
    assert {"LICENSE", "README.source.md", "README.md", "config.json"} < made.files.keys()
    assert made.origin["license"] == "mit"
    assert made.origin["inputs"]["notices"] == {name: entry.sha256 for name, entry in manifest.files.items()}
    (notices / "LICENSE").write_text("another")
    assert stage("export", settings, *options, "--output", folder / "manifest.json") == 2  # not what was fetched


HUB = {"source": {"repo": "org/base-model", "revision": "0123456789abcdef0123456789abcdef01234567"}}
CALIBRATED = {"samples": 8, "sequence_length": 64, "format": "chat", "seed": 0}


def test_a_folder_of_others_files_is_no_output(study, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_text("another model")
    with pytest.raises(AssertionError):  # `export` asserts that the stage ends well
        export(study.model, study.qparams("w4a16"), RECIPES["w4a16"], tmp_path)
    assert "holds files that export did not put there" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_text() == "another model"


def written_card(tmp_path, form="compressed-tensors", source=HUB, calibration_source=None, front="license: apache-2.0"):
    """The card of a checkpoint whose provenance is given."""
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nthe float model's card")
    settings = CALIBRATED | {"source": calibration_source or {"repo": "org/traces", "revision": "1" * 40, "split": "train"}}
    inputs = {"model": {"model.safetensors": "a" * 64}, "qparams": ["b" * 64]}
    origin = {"inputs": inputs, "calibration": "c" * 64, "calibration_set": {"settings": settings}, "code": "d", "versions": {}}
    recipe = RECIPES["w4a16"]
    loading = registry.scheme(form).loading(recipe, ".")
    return card(recipe, form, loading, {"architectures": ["Qwen2ForCausalLM"]}, origin | source, tmp_path)


@pytest.mark.parametrize("form", registry.forms())
def test_a_form_is_served_by_the_command_that_its_card_shows(form):
    scheme, recipe = registry.scheme(form), RECIPES["w4a16"]
    servers = {"gpu": "vllm serve r", "cpu": "python -m vllm.entrypoints.openai.api_server --model r"}
    for platform in servers:
        server = vllm_on(platform)
        start = servers["gpu" if form == "modelslim" else platform]  # that is an NPU's, wherever it was made
        command = scheme.serve(recipe, "results/x", server)
        assert (command is None) == (form == registry.FAKE)
        assert command is None or command.startswith(start)
        assert f"`{command or start}" in scheme.loading(recipe, "results/x", server)


def test_what_no_engine_serves_has_no_command():
    three_bits = RECIPES["w4a16"].model_dump()
    three_bits["scheme"]["weights"]["num_bits"] = 3
    assert registry.scheme("gptq").serve(Recipe.model_validate(three_bits), ".") is None


def test_the_card_says_to_the_hub_what_it_was_made_from(tmp_path):
    """The front matter is read by huggingface_hub's own code, and its base model, licence and data sets are what it shows."""
    text = written_card(tmp_path)
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.datasets) == ("org/base-model", "apache-2.0", ["org/traces"])
    assert data.to_dict()["base_model_relation"] == "quantized"
    for repo in (data.base_model, *data.datasets):
        validate_repo_id(repo)
    assert HUB["source"]["revision"] in text
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert resolve(recipe) == RECIPES["w4a16"]
    assert text.index("<details>") < text.index("a" * 64) < text.index("</details>")
    assert "vllm serve ." in text


def test_a_local_model_and_local_data_are_no_repositories_of_the_hub(tmp_path):
    text = written_card(tmp_path, source={"source": {"path": "mine"}}, calibration_source={"path": "/home/me/traces.jsonl"})
    data = ModelCard(text).data
    assert (data.base_model, data.datasets) == (None, None)
    assert "a local folder named `mine`" in text
    assert "`traces.jsonl`" in text
    assert "/home/me" not in text


def test_a_licence_of_its_own_keeps_name_and_link(tmp_path):
    front = "license: other\nlicense_name: qwen\nlicense_link: https://example.org/licence"
    data = ModelCard(written_card(tmp_path, front=front)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "qwen", "https://example.org/licence")
    assert ModelCard(written_card(tmp_path, front="license: [broken")).data.license is None
    assert ModelCard(written_card(tmp_path, front="license:\n- mit\n- llama3")).data.license == ["mit", "llama3"]


def test_the_card_of_the_fake_form_never_says_that_weights_are_integers(tmp_path):
    text = written_card(tmp_path, form="fake")
    assert "an emulation" in text
    assert "Weights on 4-bit symmetric grids" in text
    assert "integers," not in text.partition("## Loading")[0]
