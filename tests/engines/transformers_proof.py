"""Load real checkpoints in stock transformers on this CPU: `python transformers_proof.py --work DIR --output result.json`.

Runs in the environment of the stages. Of our code only `compare` is imported: transformers and its quantizers read the files.
"""

import json
from pathlib import Path
from typing import Any

import torch
from compare import Attempt, arguments, checkpoints
from transformers import AutoModelForCausalLM

FORMS = ("compressed-tensors",)


@torch.inference_mode()
def prove(work: Path, recipe: str, form: str, folder: Path, dtype: str) -> dict[str, Any]:
    """One row."""
    with Attempt(work, recipe, form, folder, "transformers", dtype) as attempt:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
        attempt.loaded()
        attempt.compare(lambda tokens: model(tokens).logits[:, :-1])
    return attempt.row


def main() -> None:
    """Prove all checkpoints in --work of the forms that transformers reads."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    rows = [prove(args.work, *checkpoint, "bfloat16") for checkpoint in checkpoints(args.work, FORMS)]
    args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
