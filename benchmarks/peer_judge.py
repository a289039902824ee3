"""What every system's weights are judged by: one evaluator, float32, held-out tokens.

Usage: peer_judge.py MODEL HELD_OUT ACTIVATIONS CHECKPOINT TRUTH; prints JSON. ACTIVATIONS: `none`, or `int8` for symmetric
per-token quantization of the linears' inputs, the same for all systems. CHECKPOINT: model.safetensors with dense weights.

output_error: of each block, on the states that enter it in the float model, |block' - block|² / |block - input|², mean over
blocks. perplexity: exp of the mean cross-entropy of the next token (TRUTH `tokens`) or, where the tokens are random and no text
follows from them, of the float model's own prediction (`model`): exp(its entropy) for the float model, more for every other.
"""

import json
import sys
from pathlib import Path

import torch
from ptqflow.artifacts.tokens import read_tokens
from ptqflow.modeling.anatomy import block_prefix
from ptqflow.modeling.blocks import Blocks, batches, forward
from ptqflow.modeling.fake_quant import quantize_block
from ptqflow.modeling.weights import Weights
from ptqflow.recipes import Recipe
from safetensors.torch import load_file
from torch import Tensor, nn

INT8 = {"scheme": {"input_activations": {"num_bits": 8, "symmetric": True}}}


def log_probabilities(hidden: Tensor, weights: dict[str, Tensor], blocks: Blocks) -> Tensor:
    """[tokens, vocabulary] of final hidden states [tokens, hidden]."""
    hidden = nn.functional.rms_norm(hidden, hidden.shape[-1:], weights["model.norm.weight"].float(), blocks.config.rms_norm_eps)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return torch.log_softmax(hidden @ head.float().T, -1)


def main() -> None:
    """Walk float and quantized blocks side by side, then score the final states of both."""
    folder, held_out, activations, checkpoint, truth = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:6]
    blocks = Blocks(folder, torch.device("cpu"), torch.float32)
    found, original = load_file(checkpoint), Weights(folder)
    recipe = Recipe.model_validate(INT8) if activations == "int8" else None
    tokens = read_tokens(held_out, blocks.config.vocab_size)
    positions, float_states = blocks.positions(tokens.shape[1]), blocks.embed(tokens)
    states = nn.functional.embedding(tokens, found["model.embed_tokens.weight"]).float()
    errors = []
    for layer in range(blocks.config.num_hidden_layers):
        names = original.names_under(block_prefix(layer))
        exact = blocks.build(layer, blocks.tensors(layer))
        quantized = blocks.build(layer, {name: found[name] for name in names})
        if recipe is not None:
            quantize_block(quantized, recipe, layer)
        lost = total = 0.0
        for part in batches(*tokens.shape):
            before = float_states[part]
            target = forward(exact, before, positions)
            lost += (forward(quantized, before, positions) - target).square().sum(dtype=torch.float64).item()
            total += (target - before).square().sum(dtype=torch.float64).item()
            float_states[part], states[part] = target, forward(quantized, states[part], positions)
        errors.append(lost / total)
    exact_weights = original.load(name for name in original.file_of if not name.startswith("model.layers."))
    nll, count = 0.0, 0
    for row in range(len(tokens)):
        predicted = log_probabilities(states[row, :-1], found, blocks)
        if truth == "model":
            likely = log_probabilities(float_states[row, :-1], exact_weights, blocks).exp()
            nll -= (likely * predicted).sum(dtype=torch.float64).item()
        else:
            nll -= predicted.gather(1, tokens[row, 1:, None]).sum(dtype=torch.float64).item()
        count += len(predicted)
    perplexity = float(torch.tensor(nll / count, dtype=torch.float64).exp())
    print(json.dumps({"output_error": sum(errors) / len(errors), "perplexity": perplexity}))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
