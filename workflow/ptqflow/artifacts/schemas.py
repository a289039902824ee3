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


def activations(sequence_length: int, hidden_size: int, storage: pa.DataType, dtype: str) -> pa.Schema:
    """Hidden states entering a chunk: one [sequence_length, hidden_size] tensor per row.

    `storage` is the Arrow type of an element (uint16 for bfloat16, which Arrow lacks); `dtype` names the torch dtype.
    """
    tensor = pa.fixed_shape_tensor(storage, (sequence_length, hidden_size))
    hidden = pa.field("hidden", tensor, nullable=False, metadata={"meaning": "hidden states", "dtype": dtype})
    return versioned("activations", 1, [column("sequence", i32, "index of the calibration sequence"), hidden])


DIAGNOSTICS = versioned(
    "diagnostics",
    1,
    [
        column("layer", i32, "decoder block index"),
        column("module", text, "linear (q_proj, ...) or 'block' for the whole block's output"),
        column("weight_error", f64, "|W - W'|^2 / |W|^2, Frobenius", nullable=True),
        column("output_error", f64, "|XW^T - X'W'^T|^2 / |XW^T|^2 on the calibration set (block: of its residual update)"),
        column("output_mse", f64, "mean squared output error (block: as the source paper's Figure 1)"),
        column("sampled_error", f64, "the same on a sample of tokens, run with the linear's input quantized", nullable=True),
        column("tokens", i64, "calibration tokens on which output errors were measured", unit="tokens", nullable=True),
        column("clip_fraction", f64, "share of integers at an end of the grid", nullable=True),
        column("damping", f64, "fraction of mean(diag H) added before factorization", nullable=True),
        column("condition_number", f64, "of the damped Hessian, at least (from its Cholesky factor)", nullable=True),
        column("fallback", text, "what was done instead of the recipe, if anything", nullable=True),
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
        column("event", text, "start, best, rollback, fallback, ... or the matrix that was measured", nullable=True),
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
    column("nll", f64, "summed negative log-likelihood of the scored tokens (perplexity: of the window)", nullable=True),
]

GENERATIONS = versioned(
    "generations",
    2,
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
    3,
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
    1,
    [
        column("phase", text, "prefill or decode"),
        column("batch_size", i32, "sequences served at once"),
        column("prompt_tokens", i32, "tokens of each prompt", unit="tokens"),
        column("new_tokens", i32, "tokens decoded per sequence (decode; 0 for prefill)", unit="tokens"),
        column("repetition", i32, "timed repetition, after warm-up"),
        column("seconds", f64, "wall time of the phase (decode: of all new tokens)", unit="s"),
        column("peak_bytes", i64, "peak memory of the process (cpu) or device", unit="bytes"),
    ],
)

VARIANT = [
    column("platform", text, "cpu, gpu or ascend"),
    column("model", text, "model name"),
    column("recipe", text, "recipe name, or baseline"),
    column("form", text, "fake or a real format; null for the baseline", nullable=True),
]

_NEEDED = [
    column(
        "needed_items", i32, "distinct items that would decide, were all as estimated; null: decided, or no number", nullable=True
    ),
    column("needed_seeds", i32, "the same of seeds", nullable=True),
    column("needed_replicates", i32, "the same of replicates", nullable=True),
    column("needed_together", flag, "that many items and that many replicates, not one or the other", nullable=True),
]

ACCURACY = versioned(
    "accuracy",
    3,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("task", text, "task name, or 'average' over the accuracy tasks"),
        column("metric", text, "accuracy (percent) or perplexity"),
        column("items", i32, "distinct items scored (0: not evaluated; average: sum)"),
        column("seeds", i32, "distinct seeds scored (average: fewest)"),
        column("replicates", i32, "calibration draws scored (average: fewest)"),
        column("score", f64, "the metric; null where not evaluated", nullable=True),
        column("score_low", f64, "lower end of the 95 % interval", nullable=True),
        column("score_high", f64, "upper end of the 95 % interval", nullable=True),
        column("paired_items", i32, "distinct items in common with the baseline (average: sum)", nullable=True),
        column("paired_runs", i32, "(item, seed) pairs in common with the baseline (average: sum)", nullable=True),
        column(
            "drop", f64, "baseline - score in points (perplexity: score / baseline - 1 in percent), on the pairs", nullable=True
        ),
        column("drop_low", f64, "lower end of the paired 95 % interval", nullable=True),
        column("drop_high", f64, "upper end of the paired 95 % interval", nullable=True),
        column(
            "noise_floor", f64, "largest measured floor of the baseline against itself, in points (table noise)", nullable=True
        ),
        column("replicate_sd", f64, "between replicates, in points of score: posterior median; null of one", nullable=True),
        column("p_value", f64, "two-sided p of no drop: by changes of sign (perplexity: Student's t over blocks)", nullable=True),
        column("p_holm", f64, "the same by Holm, over the recipes of this platform, model, engine and task", nullable=True),
        column("p_tasks", f64, "the same by Holm, over this variant's tasks", nullable=True),
        column("recovery", f64, "score / baseline in percent, on the pairs (accuracy only)", nullable=True),
        column("p_lossless", f64, "probability, flat prior, that the drop is at most 1 point", nullable=True),
        column("p_fair", f64, "probability that the drop is between 1 and 3 points", nullable=True),
        column("p_risky", f64, "probability that the drop is at least 3 points", nullable=True),
        column("verdict", text, "lossless, fair or risky, where its probability reaches 0.9; else undecided", nullable=True),
        column("doubt", text, "why the evidence is too thin for a verdict, whatever its probability", nullable=True),
        *_NEEDED,
        column("truncated", f64, "share of completions cut at the token limit", nullable=True),
        column("note", text, "why something is null, or how the pairs differ from what was scored", nullable=True),
    ],
)

COST = versioned(
    "cost",
    1,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("task", text, "task name"),
        column("seed", i64, "run seed; null: all seeds together", nullable=True),
        column("metric", text, "accuracy (percent) or perplexity"),
        column("score", f64, "the metric; null where the model collapsed", nullable=True),
        column("samples", i64, "completions, items of alternatives, or windows"),
        column("solved", i64, "samples answered right (accuracy only)", nullable=True),
        column("seconds", f64, "the engine's wall time on them, without loading", unit="s"),
        column("tokens", i64, "generated or scored", unit="tokens"),
        column("tokens_per_second", f64, "tokens / seconds", nullable=True),
        column("seconds_per_solved", f64, "seconds / solved; null where none is", unit="s", nullable=True),
        column("tokens_per_solved", f64, "tokens / solved", unit="tokens", nullable=True),
        column("length_ratio", f64, "tokens / the baseline's, on the samples that both have (generation only)", nullable=True),
        column("seconds_ratio", f64, "seconds / the baseline's, on the same", nullable=True),
    ],
)

NOISE = versioned(
    "noise",
    1,
    [
        column("platform", text, "cpu, gpu or ascend"),
        column("model", text, "model name"),
        column("engine", text, "what served the baseline"),
        column("task", text, "task name, or 'average' over the accuracy tasks"),
        column("kind", text, "what differs between two runs of the baseline: seeds, engines or platforms"),
        column("other", text, "the other engine or platform", nullable=True),
        column("items", i32, "distinct items in common (average: sum)"),
        column("pairs", i32, "pairs of runs (average: fewest)"),
        column("changed", f64, "share of items with another outcome"),
        column("difference", f64, "largest difference of two runs' scores, in points; null of the average", nullable=True),
        column("floor", f64, "95 % of differences between two evaluations of as many seeds are smaller, in points"),
    ],
)

COMPARISON = versioned(
    "comparison",
    1,
    [
        *VARIANT,
        column("other_recipe", text, "recipe that it is compared with"),
        column("other_form", text, "form of the same", nullable=True),
        column("engine", text, "what served the model"),
        column("task", text, "task name, or 'average' over the accuracy tasks"),
        column("items", i32, "distinct items in common (average: sum)"),
        column("seeds", i32, "distinct seeds (average: fewest)"),
        column("replicates", i32, "calibration draws, fewest of the two"),
        column("difference", f64, "score - the other's score, in points"),
        column("difference_low", f64, "lower end of the paired 95 % interval"),
        column("difference_high", f64, "upper end of the paired 95 % interval"),
        column("p_better", f64, "probability, flat prior, that the score is higher than the other's"),
        column("p_value", f64, "two-sided p of no difference: by changes of sign"),
        column("p_holm", f64, "the same by Holm, over all pairs of this platform, model, engine and task"),
        *_NEEDED,
    ],
)

COLLAPSE = versioned(
    "collapse",
    1,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("task", text, "task name"),
        column("completions", i32, "all items, seeds and replicates"),
        column("truncated", f64, "share of completions cut at the token limit", nullable=True),
        column("looping", f64, "share that ends in a loop", nullable=True),
        column("open_thinking", f64, "share of those that think whose thinking never ends", nullable=True),
        column("silent", f64, "share that says nothing outside of thinking", nullable=True),
        column("tokens", f64, "mean length", unit="tokens"),
        column("inflation", f64, "mean length / the baseline's, on the same items", nullable=True),
        column("inflation_low", f64, "lower end of its 95 % interval", nullable=True),
        column("inflation_high", f64, "upper end of the same", nullable=True),
        column("signs", text, "what is worse than the baseline's noise", nullable=True),
    ],
)

LAYER_ERROR = versioned(
    "layer_error",
    1,
    [
        column("platform", text, "cpu, gpu or ascend"),
        column("model", text, "model name"),
        column("recipe", text, "recipe name"),
        column("chunk", i32, "chunk of decoder blocks that the job quantized"),
        *[DIAGNOSTICS.field(i) for i in range(len(DIAGNOSTICS))],
    ],
)

LATENCY_SUMMARY = versioned(
    "latency_summary",
    1,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("phase", text, "prefill or decode"),
        column("batch_size", i32, "sequences served at once"),
        column("prompt_tokens", i32, "tokens of each prompt", unit="tokens"),
        column("new_tokens", i32, "tokens decoded per sequence (0 for prefill)", unit="tokens"),
        column("repetitions", i32, "timed repetitions"),
        column("seconds_median", f64, "median wall time", unit="s"),
        column("seconds_min", f64, "shortest wall time", unit="s"),
        column("seconds_max", f64, "longest wall time", unit="s"),
        column(
            "tokens_per_second", f64, "processed (prefill) or generated (decode) tokens per second, all sequences, at the median"
        ),
        column("speedup", f64, "baseline's median time / this median time; null without a like measurement", nullable=True),
        column("peak_bytes", i64, "largest peak memory", unit="bytes"),
    ],
)

SIZES = versioned(
    "sizes",
    1,
    [
        *VARIANT,
        column("bytes", i64, "files of the checkpoint on disk", unit="bytes"),
        column("qparams_bytes", i64, "integers, scales and zero points as stored by quantize", unit="bytes", nullable=True),
        column(
            "packed_bytes",
            i64,
            "weights of the blocks' linears at their nominal bits with scales and zero points; unquantized ones as stored",
            unit="bytes",
            nullable=True,
        ),
        column("bits_per_weight", f64, "packed bits per weight of the blocks' linears, scales included", nullable=True),
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

VERIFICATION_SUMMARY = versioned(
    "verification_summary",
    1,
    [
        *VARIANT,
        column("tensors", i32, "tensors found right: name, dtype, shape, range, content"),
        column("linears", i32, "quantized linears whose integers were read back equal"),
        column("bytes", i64, "weight files", unit="bytes"),
        column("baseline_share", f64, "these bytes / the float model's"),
        column("weight_difference", f64, "largest relative difference from a weight of the fake checkpoint", nullable=True),
        column("logprob_difference", f64, "mean |log p - log p of the fake checkpoint|", unit="nats", nullable=True),
        column("logprob_limit", f64, "what that may be", unit="nats", nullable=True),
        column("note", text, "what was skipped, and why; what is not as the recipe says", nullable=True),
    ],
)
