"""The declared schema of every Parquet file of a study (design: one place per contract), with its version.

A version is raised when columns change: an older file is then refused by name.
"""

import pyarrow as pa

from ptqflow.artifacts.tables import column, versioned

i32, i64, f32, f64, text, flag = pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.bool_()

TOKENS = versioned(
    "tokens",
    1,
    [
        column("sequence", i32, "index of the calibration sequence"),
        column("tokens", pa.list_(i32), "token ids, all sequences of equal length"),
        column("source", text, "file or data set (at its revision) the tokens come from"),
        column("rows", pa.list_(text), "ids of the source rows that overlap the window"),
        column("offset", i64, "first token's position in the source's token stream", unit="tokens"),
    ],
)

STATISTICS = versioned(
    "statistics",
    1,
    [
        column("layer", i32, "decoder block index"),
        column("site", text, "distinct linear input: qkv, o, gate_up, down; or the cached k, v"),
        column("channel", i32, "input channel"),
        column("absmax", f32, "max |x| over tokens"),
        column("mean_abs", f32, "mean |x| over tokens"),
        column("mean", f32, "mean x over tokens"),
        column("second_moment", f32, "mean x^2 over tokens"),
    ],
)

STATISTICS_FILE = "statistics.parquet"  # beside the manifest that collect writes


def activations(sequence_length: int, state_bytes: int, dtype: str) -> pa.Schema:
    """Hidden states entering a chunk: one token per row, one sequence per row group.

    `state_bytes`: of a token's state, [hidden_size] of the torch dtype named `dtype`, little-endian (Arrow lacks bfloat16).
    """
    said = {"meaning": "hidden state, its bytes", "dtype": dtype, "sequence_length": str(sequence_length)}
    hidden = pa.field("hidden", pa.binary(state_bytes), nullable=False, metadata=said)
    return versioned("activations", 2, [column("sequence", i32, "index of the calibration sequence"), hidden])


DIAGNOSTICS = versioned(
    "diagnostics",
    4,
    [
        column("layer", i32, "decoder block index"),
        column("module", text, "linear (q_proj, ...) or 'block' for the whole block's output"),
        column("weight_error", f64, "|W - W'|^2 / |W|^2, Frobenius", nullable=True),
        column(
            "output_error",
            f64,
            "|XW^T - X'W'^T|^2 / |XW^T|^2 on the calibration set (block: of its residual update); null: not measured",
            nullable=True,
        ),
        column("output_mse", f64, "mean squared output error (block: as the source paper's Figure 1)", nullable=True),
        column("sampled_error", f64, "the same on a sample of tokens, run with the linear's input quantized", nullable=True),
        column("tokens", i64, "calibration tokens on which output errors were measured", unit="tokens", nullable=True),
        column("clip_fraction", f64, "share of integers at an end of the grid", nullable=True),
        column("clip", text, "what `clip: auto` chose", nullable=True),
        column("clip_errors", text, "|X (W - W')^T|^2 / |X W^T|^2 by candidate, on held-out sequences (JSON)", nullable=True),
        column("damping", f64, "fraction of mean(diag H) added before factorization", nullable=True),
        column("condition_number", f64, "of the damped Hessian, at least (from its Cholesky factor)", nullable=True),
        column("fallback", text, "what was done instead of the recipe, if anything", nullable=True),
        column("warning", text, "what is doubtful though it is as the recipe says, if anything", nullable=True),
        column("seconds", f64, "wall time of this module", unit="s"),
        column("peak_bytes", i64, "peak memory of process (cpu) or device so far", unit="bytes"),
    ],
)

LOSSES = versioned(
    "losses",
    1,
    [
        column("layer", i32, "decoder block index"),
        column("step", i32, "optimization step"),
        column("measure", text, "loss, held_out_loss, identity_error, condition_number, ..."),
        column("value", f64, "losses: mean squared error of the block's output"),
        column("event", text, "start, best, rollback, fallback, warning, ... or the matrix that was measured", nullable=True),
    ],
)

_ANSWER = [
    column("task", text, "name of the task in config.yaml"),
    column("kind", text, "generation, choices or perplexity"),
    column("item", text, "id of the data set's row (perplexity: index of the window)"),
    column("seed", i64, "run seed; an item's own seed is derived from it and the item id"),
    column("completion", i32, "index among the completions of this item and seed"),
    column("prompt_sha256", text, "sha256 of the prompt's token ids"),
    column("prompt_tokens", i32, "tokens of the prompt", unit="tokens"),
    column("completion_tokens", i32, "tokens generated or scored", unit="tokens"),
    column("seconds", f64, "its share of the engine's wall time, without loading; the samples' sum up to the task's", unit="s"),
    column("finish_reason", text, "stop, length or not_finite (the logits were no numbers); generation only", nullable=True),
    column("gold", text, "reference answer", nullable=True),
    column(
        "logprob",
        f64,
        "log-probability of the generated tokens under the model, summed: before temperature, top-k and top-p (generation only)",
        unit="nats",
        nullable=True,
    ),
    column("nll", f64, "summed negative log-likelihood of the scored tokens (perplexity: of the window)", nullable=True),
]

GENERATIONS = versioned(
    "generations",
    3,
    [
        *_ANSWER,
        column(
            "options",
            pa.list_(i32),
            "of lettered options: which of the data set's each letter showed, 0 the right one",
            nullable=True,
        ),
        column("thinking", flag, "the prompt ends inside a thinking section (generation only)", nullable=True),
        column("tokens", pa.list_(i32), "generated token ids, the stop token included (generation only)", nullable=True),
        column("text", text, "generated text (generation only)", nullable=True),
        column("choice_logprobs", pa.list_(f64), "summed log-probability of each alternative, nats", nullable=True),
        column("choice_greedy", pa.list_(flag), "greedy decoding produces the alternative", nullable=True),
        column("choice_tokens", pa.list_(i32), "tokens of each alternative", nullable=True),
        column("choice_characters", pa.list_(i32), "characters of each, without the space that joins it", nullable=True),
        column("choice_bytes", pa.list_(i32), "UTF-8 bytes of the same", nullable=True),
    ],
)

SAMPLES = versioned(
    "samples",
    4,
    [
        *_ANSWER,
        column("extracted", text, "answer extracted from the text, or the chosen alternative", nullable=True),
        column("correct", flag, "extracted answer equals gold (null for perplexity, and where unscored says why)", nullable=True),
        column("unscored", text, "why there is no verdict", nullable=True),
        column("looping", flag, "the completion ends in a loop (generation only)", nullable=True),
        column("open_thinking", flag, "its thinking never ends; null: it does not think", nullable=True),
        column("silent", flag, "it says nothing outside of thinking (generation only)", nullable=True),
    ],
)

VERIFICATION = versioned(
    "verification",
    2,
    [
        column(
            "check",
            text,
            "what was compared: files, names, index, documents, tensors, integers, scale, weight, distance, range, bytes and "
            "baseline_bytes, mean_ and largest_logprob_difference, perplexity; or fallback",
        ),
        column("subject", text, "tensor, linear, file, or what was measured"),
        column("status", text, "passed, skipped or noted (a failed check fails the job)"),
        column("value", f64, "what was measured: relative difference, bytes, nats; null: equality", nullable=True),
        column("limit", f64, "what it may be", nullable=True),
        column("note", text, "why it was skipped, or what is to be known", nullable=True),
    ],
)

LATENCY = versioned(
    "latency",
    2,
    [
        column("phase", text, "prefill or decode"),
        column("part", text, "of a profiled run: part of the linears' work, or other; null: a timed run", nullable=True),
        column("workload", text, "its name; null: of the grid of batch sizes and prompt lengths", nullable=True),
        column("batch_size", i32, "sequences served at once"),
        column("prompt_tokens", i32, "tokens of each prompt", unit="tokens"),
        column("new_tokens", i32, "tokens decoded per sequence (decode; 0 for prefill)", unit="tokens"),
        column("repetition", i32, "timed repetition, after warm-up"),
        column("seconds", f64, "wall time of the phase (decode: of all new tokens)", unit="s"),
        column("peak_bytes", i64, "peak memory of the process (cpu) or device", unit="bytes"),
        column("load_seconds", f64, "wall time until the engine was ready", unit="s"),
        column("weight_bytes", i64, "weights as the engine holds them; files of weights, where it does not say", unit="bytes"),
        column("cache_tokens", i64, "tokens that the KV cache has room for"),
        column("flops", f64, "floating-point operations that the model asks for in this phase"),
        column("moved_bytes", f64, "weights and cache that this phase must read at least", unit="bytes"),
        column(
            "device_flops", f64, "measured: operations per second of a product (compute dtype, or the engine's int8), all devices"
        ),
        column("device_bandwidth", f64, "measured: bytes per second of a copy, read and written, of all devices", unit="bytes/s"),
        column("kernels", text, "of a part: the products that ran, comma-separated", nullable=True),
    ],
)

SELFTEST = versioned(
    "selftest",
    1,
    [
        column("platform", text, "cpu, gpu or ascend"),
        column("device", text, "name of the device"),
        column("probe", text, "what was measured"),
        column(
            "relied_on_by",
            text,
            "recipes with Hessians (second_order), training, or all of these (arithmetic); null: none",
            nullable=True,
        ),
        column("value", f64, "what was found: an error or a count", nullable=True),
        column("limit", f64, "what it may be at most", nullable=True),
        column("passed", flag, "within the limit; null: not run", nullable=True),
        column("detail", text, "what that says, or why it was not run; may be empty"),
    ],
)

ENGINES = versioned(
    "engines",
    1,
    [
        column("form", text, "form of the checkpoint; float: the unquantized model"),
        column("recipe", text, "recipe name, or baseline"),
        column("engine", text, "what loaded it"),
        column("dtype", text, "number type of activations; empty where the proof has its own"),
        column("loaded", flag, "the engine loaded it and ran"),
        column("passed", flag, "loaded, and within the limits of tests/engines; null: this machine cannot run it", nullable=True),
        column("load_seconds", f64, "wall time until the engine was ready", unit="s", nullable=True),
        column("max_logit_difference", f64, "largest difference from the fake form in transformers", nullable=True),
        column("mean_logit_difference", f64, "mean of the same", nullable=True),
        column("number_type_change", f64, "mean difference of the fake form in bfloat16 from float32", nullable=True),
        column("mean_logprob_difference", f64, "mean difference of log p(next token)", nullable=True),
        column("perplexity", f64, "of the prompts, by the engine", nullable=True),
        column("reference_perplexity", f64, "of the prompts, by the fake form in transformers", nullable=True),
        column("bytes", i64, "weight files of the checkpoint", unit="bytes", nullable=True),
        column("baseline_bytes", i64, "weight files of the float model", unit="bytes"),
        column("message", text, "what the engine said, or why it failed; may be empty"),
    ],
)
