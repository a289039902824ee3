"""Load real checkpoints in stock transformers on this CPU: `python transformers_proof.py --work DIR --output result.json`.

Runs in the environment of the stages. Of our code only `compare` is imported: transformers and its quantizers read the files.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from compare import bytes_of, checkpoints, differences, failed, reference
from transformers import AutoModelForCausalLM

FORMS = ("compressed-tensors",)


@torch.inference_mode()
def prove(work: Path, recipe: str, form: str, folder: Path, dtype: str) -> dict[str, Any]:
    """One row."""
    try:
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
        tokens, expected = reference(work, recipe, dtype)
        seconds = time.perf_counter() - start
        found = differences(model(tokens).logits[:, :-1], expected, tokens)
    except Exception as error:
        return failed(recipe, form, "transformers", dtype, error)
    row = {"form": form, "recipe": recipe, "engine": "transformers", "dtype": dtype, "loaded": True, "load_seconds": seconds}
    return row | found | {"bytes": bytes_of(folder), "message": ""}


def main() -> None:
    """Prove all checkpoints in --work of the forms that transformers reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [prove(args.work, *checkpoint, "bfloat16") for checkpoint in checkpoints(args.work, FORMS)]
    args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
