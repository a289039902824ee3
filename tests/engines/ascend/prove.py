"""Serve ModelSlim checkpoints by vllm-ascend's own code on this CPU (`../ascend_proof.py` runs this file).

vllm-ascend's platform, configuration, weight loader, post-processing of weights and `apply` of each linear run as they are;
torch_npu's kernels are replaced by reference implementations on the CPU (`kernels.py`), over a stand-in for the CANN runtime
(`cann.py`). Embeddings, norms and attention are those of transformers, with the tensors that vLLM loaded, since vLLM's attention
on Ascend is a kernel. So a row says that the checkpoint loads and that its linears compute what the fake form computes; it says
nothing of the hardware's kernels.

Rows of recipe `refused ...` are checkpoints that our exporter refuses, made by hand: they must fail, with the message we give.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import npu_kernels as kernels
import torch
from compare import Attempt, arguments, checkpoints, said
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm_ascend.ascend_config import get_ascend_config
from vllm_ascend.ops import linear, register_custom_ops
from vllm_ascend.utils import adapt_patch, set_weight_prefetch_method

from ascend import fake, plugin, refused

ENGINE = "vllm-ascend"
DTYPE = torch.bfloat16


@contextmanager
def engine(folder: Path, scratch: Path) -> Iterator[VllmConfig]:
    """vLLM's configuration of a checkpoint on the Ascend platform, current and with its process groups (of one) initialized."""
    arguments = EngineArgs(str(folder), skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16", max_model_len=256)
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{scratch}/group", 0, backend="gloo")
            initialize_model_parallel(1, 1)
            for part in ("", ".io", ".transforms", ".transforms.functional", ".transforms.v2", ".transforms.v2.functional"):
                sys.modules[f"torchvision{part}"] = MagicMock()  # named by models of pictures, which the next line imports
            adapt_patch()  # vllm-ascend's changes to vLLM, as its worker makes them; before it, groups would need a device
            set_weight_prefetch_method(get_ascend_config().weight_prefetch_config)  # as its worker does; W8A8 asks for it
        yield config


def load(config: VllmConfig) -> tuple[nn.Module, int, int]:
    """The model with everything loaded and post-processed; how many of its parameters the checkpoint filled, and how many are.

    Raises ValueError naming a parameter that was left uninitialized.
    """
    with set_default_torch_dtype(DTYPE):
        model = initialize_model(vllm_config=config)
        expected = {name for name, _ in model.named_parameters()}
        weights = DefaultModelLoader(config.load_config).get_all_weights(config.model_config, model)
        loaded = expected & model.load_weights(weights)
        if missing := sorted(expected - loaded):
            raise ValueError(f"{len(missing)} parameters were not loaded, the first of them {missing[0]}")
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
    return model, len(loaded), len(expected)


class Served(nn.Module):
    """One linear, as vllm-ascend computes it: `rows` of the output of `layer`, which may be several linears fused."""

    def __init__(self, layer: Any, rows: slice) -> None:
        super().__init__()
        self.layer, self.rows = [layer], rows  # in a list: its parameters are not this model's
        self.expected: fake.Linear | None = None
        self.error = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]; notes how far the result is from that of the fake form's linear."""
        [layer] = self.layer
        tokens = x.flatten(0, -2)
        output = layer.quant_method.apply(layer, tokens, getattr(layer, "bias", None))[:, self.rows]
        if self.expected is not None:
            expected = self.expected(tokens)
            self.error = max(self.error, ((output.float() - expected).norm() / expected.norm()).item())
        return output.unflatten(0, x.shape[:-1])


def assemble(folder: Path, model: Any, expected: dict[str, fake.Linear]) -> Any:
    """The transformers model of a checkpoint with vLLM's tensors, whose block linears are `Served`."""
    result = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=DTYPE).eval()
    tensors = {name: tensor for name, tensor in model.named_parameters() if not name.endswith("rotary_emb.inv_freq")}
    held = {name: tensors[name] for name in result.state_dict() if name in tensors and "_proj" not in name}
    if result.config.tie_word_embeddings:
        held["lm_head.weight"] = held["model.embed_tokens.weight"]
    missing, _ = result.load_state_dict({name: tensor.data for name, tensor in held.items()}, strict=False)
    if absent := [name for name in missing if "_proj" not in name]:
        raise ValueError(f"vLLM's model has no {absent[0]}")
    for index, block in enumerate(result.model.layers):
        parts = model.model.layers[index]
        attention, mlp = parts.self_attn, parts.mlp
        ends = [attention.q_size, attention.q_size + attention.kv_size, attention.q_size + 2 * attention.kv_size]
        half = result.config.intermediate_size
        places = {
            "self_attn.q_proj": (attention.qkv_proj, slice(0, ends[0])),
            "self_attn.k_proj": (attention.qkv_proj, slice(ends[0], ends[1])),
            "self_attn.v_proj": (attention.qkv_proj, slice(ends[1], ends[2])),
            "self_attn.o_proj": (attention.o_proj, slice(None)),
            "mlp.gate_proj": (mlp.gate_up_proj, slice(0, half)),
            "mlp.up_proj": (mlp.gate_up_proj, slice(half, 2 * half)),
            "mlp.down_proj": (mlp.down_proj, slice(None)),
        }
        for name, (layer, rows) in places.items():
            served = Served(layer, rows)
            served.expected = expected.get(f"model.layers.{index}.{name}")
            block.set_submodule(name, served)
    return result


@torch.inference_mode()
def prove(work: Path, recipe: str, form: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """One row: load, compare each linear with the fake form's on the same inputs, and the logits with those of the fake form."""
    with Attempt(work, recipe, form, folder, ENGINE, "bfloat16") as attempt:
        with engine(folder, scratch) as config:
            model, loaded, parameters = load(config)
            attempt.loaded()
            served = assemble(folder, model, fake.linears(work / f"{recipe}.fake"))
            attempt.compare(lambda tokens: served(tokens).logits[:, :-1])
        errors = {name: module.error for name, module in served.named_modules() if isinstance(module, Served)}
        worst = max(errors, key=lambda name: errors[name])
        message = f"{loaded}/{parameters} parameters; linears off by at most {errors[worst]:.2e} ({worst})"
        attempt.row |= {"max_output_error": errors[worst], "message": message}
    return attempt.row


@torch.inference_mode()
def prove_refusal(case: refused.Case, source: Path, scratch: Path) -> dict[str, Any]:
    """One row: a checkpoint that our exporter refuses is loaded (made from `source`), and fails as it says."""
    folder = refused.make(case, source, scratch / case.name)
    try:
        with engine(folder, scratch) as config:
            load(config)
        message = "it loaded, and should not"
    except Exception as error:
        message = _said(error)
    return _refused(case.name, message, case.message)


def prove_kernel_refusal() -> dict[str, Any]:
    """One row: torch_npu's own check of shapes refuses the transform of 18944 channels."""
    x, left, right = (torch.empty(shape, dtype=DTYPE, device="meta") for shape in ((1, 128, 148), (128, 128), (148, 148)))
    try:
        torch.ops.npu.npu_kronecker_quant(x, left, right, clip_ratio=1.0, dst_dtype=torch.int32)
        message = "it ran, and should not"
    except RuntimeError as error:
        message = _said(error)
    return _refused("128 x 148 transform", message, "last dim of input x must be divisible by 8")


def _said(error: Exception) -> str:
    return said(error).partition("[ERROR]")[0].strip()  # where torch_npu adds the time and the process


def _refused(name: str, message: str, expected: str) -> dict[str, Any]:
    row = {"form": "modelslim", "recipe": f"refused {name}", "engine": ENGINE, "dtype": "bfloat16", "loaded": False}
    return row | {"refused_as_stated": expected in message, "message": message}


def main() -> int:
    """Prove what is in --work: forms modelslim and fake, and that what is refused fails; 0 where all is as stated."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    registered = [kernels.register(), torch.library.Library("vllm", "IMPL")]
    registered[0].impl(
        "npu_format_cast", lambda x, *layout, **unused: x.clone(), "CPU"
    )  # the values; their order is the device's
    torch.Tensor.npu = lambda self, *device, **options: self  # type: ignore[attr-defined]  # all stays on the CPU
    # Its own, which it gives to NPUs alone: the latter is of linears of type FLOAT.
    registered[1].impl("quantize", register_custom_ops._quantize_impl, "CPU")
    registered[1].impl("unquantized_gemm", linear.unquantized_gemm, "CPU")
    found = checkpoints(args.work, ("modelslim",))
    with tempfile.TemporaryDirectory() as scratch:
        rows = [prove(args.work, *checkpoint, Path(scratch)) for checkpoint in found]
        for case in refused.CASES:
            sources = [folder for recipe, _, folder in found if case.is_about(recipe, folder)]
            rows += [prove_refusal(case, source, Path(scratch)) for source in sources[:1]]
        for recipe, _, folder in checkpoints(args.work, ("fake",)):
            if "quantization_config" in json.loads((folder / "config.json").read_text()):
                rows.append(plugin.row(sys.modules[__name__], args.work, recipe, folder, Path(scratch)))
    rows.append(prove_kernel_refusal())
    del registered
    args.output.write_text(json.dumps(rows, indent=1))
    return 0 if all(row["loaded"] or row.get("refused_as_stated") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
