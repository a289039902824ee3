"""Named recipes: the reference settings of each method, as entries of the grammar in `recipes.py`.

Only the configuration reads this file; stages receive complete recipes, so a new preset reruns nothing.
"""

from typing import Any

from ptqflow.recipes import Recipe


def _weights(bits: int, symmetric: bool, group_size: int | None) -> dict[str, Any]:
    strategy = "group" if group_size else "channel"
    return {"num_bits": bits, "symmetric": symmetric, "strategy": strategy, "group_size": group_size}


_GPTQ = {"clip": {"name": "mse"}, "rounding": {"name": "gptq"}}
_W8A8 = {"weights": _weights(8, True, None), "input_activations": {"num_bits": 8, "symmetric": False}}
_KV8 = {"kv_cache": {"num_bits": 8}}
_KVQUANT = {"keys": "pre_rope", "key_bias": "separate", "dynamic": "values"}
_W4A4KV4 = {
    "weights": _weights(4, True, None),
    "input_activations": {"num_bits": 4, "symmetric": False},
    "kv_cache": {"num_bits": 4},
}
_HADAMARD = {"name": "hadamard"}
_HESSIAN = {"clip": {"name": "hessian"}}
_ATTENTION = {**_HESSIAN, "rounding": {"name": "gptq", "token_weights": "attention"}}
_FLAT = {"transform": {"name": "flatquant"}, "error_propagation": False}
# Scales are searched on the float model's inputs, as in the reference.
_AWQ = {"transform": {"name": "awq"}, "clip": {"name": "search"}, "error_propagation": False}
# Of no paper: AWQ's scales where large weights and large inputs both count, then GPTQ's rounding, of ranges that mind the inputs.
_AWQ_GPTQ = {"transform": {"name": "awq", "duo_scaling": True}, **_HESSIAN, "rounding": {"name": "gptq"}}
_GPTAQ = {"rounding": {"name": "gptq", "asymmetric_calibration": True}}
_SMOOTH = {"transform": {"name": "smoothquant"}, "clip": {"name": "mse"}, "rounding": {"name": "gptq", "actorder": False}}

# What Ascend's kernels serve: symmetric activations; 4 bits on transformed q, k, v and gate, up alone.
_W8, _W8A8_SYMMETRIC = _weights(8, True, None), {"weights": _weights(8, True, None), "input_activations": {"num_bits": 8}}
_W8A8_STATIC = {"weights": _W8, "input_activations": {"num_bits": 8, "strategy": "tensor", "dynamic": False}}
_C8 = {"kv_cache": {"num_bits": 8, "symmetric": True, "dynamic": False, "positions": 32768}}  # as long as reasoning is
_W4A4_SYMMETRIC = {"weights": _weights(4, True, None), "input_activations": {"num_bits": 4}}
_O_AND_DOWN_AT_8 = {"linears": ["o_proj", "down_proj"], **_W8A8_SYMMETRIC}

# What the vendor deploys by hand, linear by linear (msmodelslim 26.1): R1-Distill-Qwen-7B W8A8, and Qwen3-32B W4A4
# (`lab_practice/qwen3/qwen3-32b-dense-w4a4.yaml`). Its smoothing is iterated, its rotation adapted, its W4A4 rounding learned.
_DOWN_IN_FLOAT = {"linears": ["down_proj"], "weights": None, "input_activations": None}
_ATTENTION_AND_DOWN_AT_8 = {"linears": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"], **_W8A8_SYMMETRIC}
_GATE_UP_AT_8 = {
    "layers": [*range(1, 9), *range(30, 33), *range(43, 47), 52, *range(60, 64)],
    "linears": ["gate_proj", "up_proj"],
    **_W8A8_SYMMETRIC,
}

# The reference settings: round-to-nearest floors, GPTQ, AWQ, KVQuant* and SmoothQuant as in Quantized-Reasoning-Models.
PRESETS: dict[str, dict[str, Any]] = {
    "rtn-w4a16": {"scheme": {"weights": _weights(4, False, 128)}},
    "rtn-w3a16": {"scheme": {"weights": _weights(3, False, 128)}},
    "rtn-w8a8": {"scheme": _W8A8},
    "rtn-w8a8kv8": {"scheme": _W8A8 | _KV8},
    "rtn-w4a4kv4": {"scheme": _W4A4KV4},
    "gptq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_GPTQ},
    "gptq-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_GPTQ},
    # The reference's clip minds the weights alone; this one the inputs, too.
    "gptq-hessian-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_GPTQ, **_HESSIAN},
    "gptq-hessian-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_GPTQ, **_HESSIAN},
    # The same, and tokens count by the attention that they receive (RSQ's third part, for q, k and v alone).
    "gptq-attention-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_ATTENTION},
    "gptq-attention-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_ATTENTION},
    # GPTAQ in closed form; beside AWQ's scales of no paper.
    "gptaq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_GPTQ, **_GPTAQ},
    "gptaq-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_GPTQ, **_GPTAQ},
    "awq-gptaq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_AWQ_GPTQ, **_GPTAQ},
    "awq-gptaq-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_AWQ_GPTQ, **_GPTAQ},
    # As the authors' code by default: groups of 64, 20 iterations, real zero points.
    "hqq-w4a16": {"scheme": {"weights": _weights(4, False, 64)}, "rounding": {"name": "hqq"}},
    # QuaRot's R1 (folded) with GPTQ and with plain rounding; its clip ratios 0.9 and 0.95 and its online rotations are not there.
    "rotate-gptq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, "rotation": _HADAMARD, **_GPTQ},
    "rotate-rtn-w4a4kv4": {"scheme": _W4A4KV4, "rotation": _HADAMARD},
    # RSQ's parts, with weights of tokens for q, k and v alone and its own clip.
    "rotate-gptq-attention-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, "rotation": _HADAMARD, **_ATTENTION},
    "rotate-gptq-attention-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, "rotation": _HADAMARD, **_ATTENTION},
    "rotate-gptq-attention-w4a8": {"scheme": _W8A8 | {"weights": _weights(4, True, None)}, "rotation": _HADAMARD, **_ATTENTION},
    "flatquant-w8a8kv8": {"scheme": _W8A8 | _KV8, **_FLAT},
    "flatquant-w4a4kv4": {"scheme": _W4A4KV4, **_FLAT},
    "awq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_AWQ},
    "awq-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_AWQ},
    "awq-gptq-w4a16": {"scheme": {"weights": _weights(4, False, 128)}, **_AWQ_GPTQ},
    "awq-gptq-w3a16": {"scheme": {"weights": _weights(3, False, 128)}, **_AWQ_GPTQ},
    "kvquant-kv4": {"scheme": {"kv_cache": {"num_bits": 4, **_KVQUANT}}},
    "kvquant-kv3": {"scheme": {"kv_cache": {"num_bits": 3, **_KVQUANT}}},
    "smoothquant-w8a8": {"scheme": _W8A8, **_SMOOTH},
    "smoothquant-w8a8kv8": {"scheme": _W8A8 | _KV8, **_SMOOTH},
    "rtn-w8a16-ascend": {"scheme": {"weights": _W8}},
    "rtn-w8a8-ascend": {"scheme": _W8A8_SYMMETRIC},
    "rtn-w8a8-static-ascend": {"scheme": _W8A8_STATIC},
    "rtn-w4a4-ascend": {"scheme": _W4A4_SYMMETRIC},
    "smoothquant-w8a8-ascend": {"scheme": _W8A8_SYMMETRIC, **_SMOOTH},
    "smoothquant-w8a8-static-ascend": {"scheme": _W8A8_STATIC, **_SMOOTH},
    "smoothquant-w8a8kv8-ascend": {"scheme": _W8A8_SYMMETRIC | _C8, **_SMOOTH},
    "flatquant-w4a4-ascend": {
        "scheme": _W4A4_SYMMETRIC,
        "transform": {"name": "flatquant", "sites": ["qkv", "gate_up"]},
        "overrides": [_O_AND_DOWN_AT_8],
        "error_propagation": False,
    },
    "vendor-w8a8": {"scheme": _W8A8_STATIC, "transform": {"name": "smoothquant"}, "overrides": [_DOWN_IN_FLOAT]},
    "vendor-w4a4": {
        "scheme": _W4A4_SYMMETRIC,
        "rotation": _HADAMARD,
        "overrides": [_ATTENTION_AND_DOWN_AT_8, _GATE_UP_AT_8],
    },
}


def resolve(entry: dict[str, Any]) -> Recipe:
    """An entry without its preset as a Recipe. Raises as `without_preset`, and pydantic's ValidationError for anything else."""
    return Recipe.model_validate(without_preset(entry))


def without_preset(entry: dict[str, Any]) -> dict[str, Any]:
    """A recipe of `config.yaml` written out: the preset, changed key by key, to the leaves, by the entry's own keys.

    Lists, `null`, and a part of another `name` (another transform, clip or rounding) replace what the preset says as a whole.
    Raises ValueError for an unknown preset (naming the known ones).
    """
    own = dict(entry)
    name = own.pop("preset", None)
    if "preset" in entry and (not isinstance(name, str) or name not in PRESETS):
        raise ValueError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return _changed(PRESETS[name], own) if name else own


def _changed(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own` in their place, and mappings merged so in turn."""
    merged = {**base, **own}
    for key, value in own.items():
        before = base.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and value.get("name", before.get("name")) == before.get("name"):
            merged[key] = _changed(before, value)
    return merged
