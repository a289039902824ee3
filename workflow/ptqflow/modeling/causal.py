"""Causal attention beyond sdpa: of whole sequences on a CPU that multiplies in bfloat16, in windows, and with a soft cap."""

import torch
from torch import Tensor

from ptqflow.numerics.products import bfloat16_matmul, rounds_operands

_QUERIES_AT_ONCE = 128  # more compute more of what the mask discards; fewer make the products small


def applies(query: Tensor, key: Tensor) -> bool:
    """Whether `causal_attention` is for this pass: on the CPU under autocast to bfloat16, all tokens new, no gradients.

    With matrix units (AMX) torch's own kernel is three times as fast as it.
    """
    return (
        query.device.type == "cpu"
        and not rounds_operands()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and 1 < query.shape[2] == key.shape[2]
        and not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad))
    )


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """softmax(scaling · QKᵀ, causal) V, [batch, tokens, heads, head_dim] bfloat16.

    query [batch, heads, tokens, head_dim], key and value [batch, key heads, tokens, head_dim], of any float dtype; as many
    consecutive query heads share a key head. Operands of both products may be rounded to bfloat16, all else is float32, as in
    torch's flash attention. Without matrix units that multiplies with the small products of one thread, over whole tiles of 512
    keys; here one batched product serves all heads of a sequence and a run of queries, over the keys that these may see.
    """
    batch, heads, tokens, width = query.shape
    key_heads, step = key.shape[1], _QUERIES_AT_ONCE
    group = heads // key_heads
    output = torch.empty(batch, tokens, heads, width, dtype=torch.bfloat16)
    future = torch.full((step, step), -torch.inf).triu_(1)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), bfloat16_matmul():
        for i in range(batch):
            q = (query[i].float() * scaling).contiguous().view(key_heads, group, tokens, width)
            k, v = key[i].float().contiguous().transpose(1, 2), value[i].float().contiguous()
            for start in range(0, tokens, step):
                stop = min(start + step, tokens)
                n = stop - start
                scores = torch.bmm(q[:, :, start:stop].reshape(key_heads, group * n, width), k[..., :stop])
                scores.view(heads, n, stop)[..., start:] += future[:n, :n]
                read = torch.bmm(scores.softmax(-1), v[:, :stop])
                output[i, start:stop] = read.view(heads, n, width).transpose(0, 1)
    return output


def received(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, cap: float | None = None) -> Tensor:
    """The attention that each token receives [batch, tokens]: the sum of its probabilities over all queries and heads, float32.

    Arguments as of `capped_attention`, without a cap where that is None; `mask` bool [1, 1, tokens, tokens], or None: causal.
    """
    batch, heads, tokens, width = query.shape
    key_heads, step = key.shape[1], _QUERIES_AT_ONCE
    found, position = torch.zeros(batch, tokens, device=query.device), torch.arange(tokens, device=query.device)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for i in range(batch):
            q, k = query[i].float().view(key_heads, -1, tokens, width), key[i].float().mT
            for start in range(0, tokens, step):
                stop = min(start + step, tokens)
                scores = scaling * torch.bmm(q[:, :, start:stop].reshape(key_heads, -1, width), k[..., :stop])
                scores = scores if cap is None else cap * torch.tanh(scores / cap)
                unseen = position[:stop] > position[start:stop, None] if mask is None else ~mask[0, 0, start:stop, :stop]
                scores = scores.view(heads, -1, stop).masked_fill_(unseen, -torch.inf)
                found[i, :stop] += scores.softmax(-1).sum((0, 1))
    return found


def window_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    """Which keys a query sees, [1, 1, tokens, tokens] bool: its own token and the window - 1 before it."""
    position = torch.arange(tokens, device=device)
    age = position.unsqueeze(1) - position
    return ((age >= 0) & (age < window))[None, None]


def capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, cap: float) -> Tensor:
    """softmax(cap · tanh(scaling · QKᵀ / cap) + mask) V, [batch, tokens, heads, head_dim], as transformers' eager attention.

    `mask`: bool (true: seen) or added; None: a query sees all keys up to its own token, the last query's being the last key's.
    """
    tokens, keys, group = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    if mask is None:
        mask = torch.ones(tokens, keys, dtype=torch.bool, device=query.device).tril(keys - tokens)
    scores = cap * torch.tanh(query @ key.mT * scaling / cap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value).transpose(1, 2).contiguous()
