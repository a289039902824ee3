"""Load GPTQ and AutoAWQ checkpoints in GPTQModel on this CPU: `python gptqmodel_proof.py --work DIR --output result.json`.

Runs in the environment of envs/gptqmodel.txt. GPTQModel reads the files and chooses its kernel; `message` names the kernels.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1"}

import torch
from compare import bytes_of, checkpoints, differences, failed, reference
from gptqmodel import GPTQModel
from gptqmodel.nn_modules.qlinear import BaseQuantLinear

FORMS = ("autoawq", "gptq")
DTYPE = "bfloat16"


@torch.inference_mode()
def prove(work: Path, recipe: str, form: str, folder: Path) -> dict[str, Any]:
    """One row."""
    try:
        start = time.perf_counter()
        model = GPTQModel.load(str(folder), device="cpu", dtype=getattr(torch, DTYPE)).model.eval()
        seconds = time.perf_counter() - start
        tokens, expected = reference(work, recipe, DTYPE)
        found = differences(model(tokens).logits[:, :-1], expected, tokens)
        linears = [module for module in model.modules() if isinstance(module, BaseQuantLinear)]
        if not linears:
            raise ValueError("no linear of the loaded model is quantized")
    except Exception as error:
        return failed(recipe, form, "gptqmodel", DTYPE, error)
    message = f"{len(linears)} linears; {', '.join(sorted({type(linear).__name__ for linear in linears}))}"
    row = {"form": form, "recipe": recipe, "engine": "gptqmodel", "dtype": DTYPE, "loaded": True, "load_seconds": seconds}
    return row | found | {"bytes": bytes_of(folder), "message": message}


def main() -> None:
    """Prove all checkpoints in --work of the forms that GPTQModel reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [prove(args.work, *checkpoint) for checkpoint in checkpoints(args.work, FORMS)]
    args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
