"""Load GPTQ and AutoAWQ checkpoints in GPTQModel on this CPU: `python gptqmodel_proof.py --work DIR --output result.json`.

Runs in the environment of envs/gptqmodel.txt. Each checkpoint is read by GPTQModel itself, and by transformers, which takes its
linears from GPTQModel (and, for GPTQ, reads the files through optimum). GPTQModel chooses the kernel; `message` names it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import torch
from compare import Attempt, arguments, checkpoints
from gptqmodel import GPTQModel
from gptqmodel.nn_modules.qlinear import BaseQuantLinear
from transformers import AutoModelForCausalLM

FORMS = ("autoawq", "gptq")
DTYPE = "bfloat16"
LOADERS: dict[str, Callable[[str], Any]] = {
    "gptqmodel": lambda folder: GPTQModel.load(folder, device="cpu", dtype=getattr(torch, DTYPE)).model,
    "transformers, gptqmodel": lambda folder: AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=getattr(torch, DTYPE), local_files_only=True
    ),
}


@torch.inference_mode()
def prove(work: Path, engine: str, recipe: str, form: str, folder: Path) -> dict[str, Any]:
    """One row."""
    with Attempt(work, recipe, form, folder, engine, DTYPE) as attempt:
        model = LOADERS[engine](str(folder)).eval()
        attempt.loaded()
        attempt.compare(lambda tokens: model(tokens).logits[:, :-1])
        linears = [module for module in model.modules() if isinstance(module, BaseQuantLinear)]
        if not linears:
            raise ValueError("no linear of the loaded model is quantized")
        attempt.row["message"] = f"{len(linears)} linears; {', '.join(sorted({type(linear).__name__ for linear in linears}))}"
    return attempt.row


def main() -> None:
    """Prove all checkpoints in --work of the forms that GPTQModel reads."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    rows = [prove(args.work, engine, *checkpoint) for checkpoint in checkpoints(args.work, FORMS) for engine in LOADERS]
    args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
