import pytest
import torch
from ptqflow.modeling import causal
from torch.nn.functional import scaled_dot_product_attention


def states(batch, heads, key_heads, tokens, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, 4), (key_heads, 1), (key_heads, 1))  # queries are large, so that scores are
    return [(torch.randn(batch, tokens, h, width, generator=generator) * s).transpose(1, 2) for h, s in shapes]


@pytest.mark.parametrize(
    "shape",
    [(2, 4, 2, 300, 32), (1, 7, 1, 128, 24), (3, 2, 2, 5, 64), (1, 8, 4, 257, 128)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_attention_is_as_near_to_the_exact_one_as_torchs_in_bfloat16(shape):
    query, key, value = states(*shape)
    exact, torchs = (
        scaled_dot_product_attention(
            query.to(dtype), key.to(dtype), value.to(dtype), is_causal=True, enable_gqa=True, scale=0.2
        ).transpose(1, 2)
        for dtype in (torch.float64, torch.bfloat16)
    )
    ours = causal.causal_attention(query, key, value, 0.2)
    assert ours.dtype == torch.bfloat16
    assert ours.is_contiguous()
    assert (ours - exact).norm() <= 1.1 * (torchs - exact).norm()


def test_attention_of_a_token_does_not_depend_on_later_ones():
    query, key, value = states(1, 4, 2, 200, 32)
    whole = causal.causal_attention(query, key, value, 0.2)
    part = causal.causal_attention(*(x[:, :, :150] for x in (query, key, value)), 0.2)
    torch.testing.assert_close(part, whole[:, :150], rtol=1e-2, atol=1e-2)


def test_attention_is_left_to_torch_unless_a_bfloat16_pass_sees_all_tokens_without_matrix_units(monkeypatch):
    query, key, _ = states(1, 4, 2, 6, 32)
    monkeypatch.setattr(causal, "rounds_operands", lambda: False)
    assert not causal.applies(query, key)
    with torch.autocast("cpu", torch.bfloat16):
        assert causal.applies(query, key)
        assert not causal.applies(query[:, :, -1:], key)
        assert not causal.applies(query, key[:, :, :4])
        assert not causal.applies(query.clone().requires_grad_(), key)
    with torch.autocast("cpu", torch.float16):
        assert not causal.applies(query, key)
    monkeypatch.setattr(causal, "rounds_operands", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not causal.applies(query, key)
