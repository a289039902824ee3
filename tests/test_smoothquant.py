import pytest
import torch
from ptqflow.methods.block import BlockInputs, quantize_weights
from ptqflow.methods.smoothquant import smoothing_scale
from ptqflow.modeling.blocks import Blocks, forward
from ptqflow.modeling.qparams import deployed
from ptqflow.recipes import Recipe, SmoothQuantTransform
from ptqflow.transforms import diagonal
from tiny_models import tiny_model

ONLY_TRANSFORM = Recipe.model_validate({"scheme": {"input_activations": {"num_bits": 8}}, "transform": {"name": "smoothquant"}})


def test_scale_is_that_of_the_paper_over_all_linears_of_the_site():
    absmax = torch.tensor([4.0, 0.0, 1.0])
    weights = [torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[-2.0, 0.5, 0.0]])]
    scale = smoothing_scale(absmax, weights, SmoothQuantTransform(name="smoothquant", smoothing_strength=0.5))
    torch.testing.assert_close(scale, torch.tensor([2**0.5, 1e-5, 1e-5**-0.5]))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoothing_preserves_the_blocks_output(kind, dtype, tmp_path):
    blocks = Blocks(tiny_model(tmp_path / "m", kind, layers=1), torch.device("cpu"), dtype)
    tensors = {name: tensor.to(dtype) for name, tensor in blocks.tensors(0).items()}
    absmax = {"qkv": torch.rand(128) * 50 + 0.1, "gate_up": torch.rand(128) * 50 + 0.1}
    qparams, rows = quantize_weights(0, tensors, BlockInputs({}, 1, absmax), ONLY_TRANSFORM, lambda: 0)
    assert rows == []
    assert sorted(qparams) == [f"model.layers.0.{site}.smoothing_scale" for site in ("gate_up", "qkv")]
    hidden = torch.randn(2, 16, 128, dtype=dtype)
    smoothed = {name: deployed(name, tensor, qparams) for name, tensor in tensors.items()}
    changed = [name for name in tensors if not torch.equal(tensors[name], smoothed[name])]
    assert len(changed) == 7  # two norms, q, k, v, gate, up
    before = forward(blocks.build(0, tensors), hidden, blocks.positions(16)) - hidden
    after = forward(blocks.build(0, smoothed), hidden, blocks.positions(16)) - hidden
    assert ((after - before).norm() / before.norm()).item() < 1e-6


def test_bfloat16_norm_and_weights_use_the_same_scale():
    norm, scale = torch.randn(256).bfloat16(), torch.rand(256) * 20 + 0.1
    norm[0] = 0
    kept = diagonal.representable(scale, norm)
    folded = diagonal.fold_into_norm(norm, kept)
    torch.testing.assert_close(folded.float() * kept, norm.float(), rtol=1e-6, atol=0)
    assert kept[0] == scale[0]
    torch.testing.assert_close(kept, scale, rtol=2**-7, atol=0)


def test_applying_and_inverting_a_scale_is_the_identity():
    weight, scale = torch.randn(4, 8), torch.rand(8) + 0.1
    torch.testing.assert_close(diagonal.apply_to_weight(diagonal.apply_to_weight(weight, scale), diagonal.invert(scale)), weight)
    x = torch.randn(32, 8)
    torch.testing.assert_close(diagonal.apply_to_gram(x.T @ x, scale), (x / scale).T @ (x / scale))
