"""Schemas of the tables across a study, which `aggregate` publishes; versioned as those of stages (`schemas`)."""

from ptqflow.artifacts.evidence_schemas import RESCUE
from ptqflow.artifacts.schemas import DIAGNOSTICS, LOSSES, f64, flag, i32, i64, text
from ptqflow.artifacts.tables import column, versioned

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
    5,
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
        column("p_within", f64, "probability that the drop is at most `decide.max_drop`", nullable=True),
        column("verdict", text, "lossless, fair or risky, where its probability reaches 0.9; else undecided", nullable=True),
        column("doubt", text, "why the evidence is too thin for a verdict, whatever its probability", nullable=True),
        *_NEEDED,
        column("truncated", f64, "share of completions cut at the token limit", nullable=True),
        column("collapsed", flag, "whether logits, losses or the perplexity were not finite (average: on any task)"),
        column("note", text, "why something is null, or how the pairs differ from what was scored", nullable=True),
    ],
)

ANSWER = versioned(
    "answer",
    2,
    [
        column("rank", i32, "1: recommended; null: not shown to meet every constraint", nullable=True),
        *VARIANT,
        column("format", text, "bits and groups of its scheme; null of the unquantized model", nullable=True),
        column("status", text, "meets, undecided or excluded"),
        column("engine", text, "what served the model where it was scored", nullable=True),
        column("scored_form", text, "form that was scored: fake where the checkpoint itself was not", nullable=True),
        column("score", f64, "average accuracy in percent", nullable=True),
        column("drop", f64, "baseline - score in points, paired", nullable=True),
        column("drop_low", f64, "lower end of its 95 % interval", nullable=True),
        column("drop_high", f64, "upper end of the same", nullable=True),
        column("p_within", f64, "probability that the drop is at most max_drop", nullable=True),
        column("max_drop", f64, "what `decide` allows, in points"),
        column("probability", f64, "what `decide` asks p_within to reach"),
        column("bytes", i64, "all files of the checkpoint", unit="bytes", nullable=True),
        column("share", f64, "the same as a share of the unquantized model's", nullable=True),
        column("packed_bytes", i64, "the blocks' linears at nominal bits", unit="bytes", nullable=True),
        column(
            "tokens_per_second", f64, "fastest point of decoding, at the median; null: this form was not timed", nullable=True
        ),
        column("quantize_seconds", f64, "wall time of all blocks, one after the other", unit="s", nullable=True),
        column("quantize_peak_bytes", i64, "peak memory of a job", unit="bytes", nullable=True),
        column("quantize_jobs", i32, "jobs that can run side by side, each on its own device", nullable=True),
        column("frontier", flag, "no other variant loses as little, is as small and as fast, and better in one of these"),
        column("reasons", text, "why it stands where it stands", nullable=True),
        column("doubts", text, "what was not shown", nullable=True),
        column("serve", text, "command that serves it", nullable=True),
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
        column("kind", text, "what differs between two runs of the baseline: seeds, batches, engines or platforms"),
        column("other", text, "the other batch size, engine or platform", nullable=True),
        column("items", i32, "distinct items in common (average: sum)"),
        column("pairs", i32, "pairs of runs (average: fewest)"),
        column("changed", f64, "share of items with another outcome"),
        column("difference", f64, "largest difference of two runs' scores, in points; null of the average", nullable=True),
        column("floor", f64, "95 % of differences between two evaluations of as many seeds are smaller, in points"),
    ],
)

COMPARISON = versioned(
    "comparison",
    2,
    [
        *VARIANT,
        column("other_recipe", text, "recipe that it is compared with"),
        column("other_form", text, "form of the same", nullable=True),
        column("format", text, "bits and groups of both, or of one beside the baseline; null: all are compared", nullable=True),
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
        column(
            "p_holm", f64, "the same by Holm, over all pairs of this platform, model, engine and task, or all with the baseline"
        ),
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
    4,
    [
        column("platform", text, "cpu, gpu or ascend"),
        column("model", text, "model name"),
        column("recipe", text, "recipe name"),
        column("chunk", i32, "chunk of decoder blocks that the job quantized"),
        *DIAGNOSTICS,
    ],
)

OUTLIERS = versioned(
    "outliers",
    1,
    [
        column("platform", text, "cpu, gpu or ascend"),
        column("model", text, "model name"),
        column("rotation", text, "of its residual stream; null: none", nullable=True),
        column("calibration", text, "calibration set"),
        column("layer", i32, "decoder block index"),
        column("site", text, "distinct linear input; or the cached k, v"),
        column("channels", i32, "input channels"),
        column("channel", i32, "the one with the largest max |x|"),
        column("absmax", f64, "largest |x|"),
        column("median_absmax", f64, "median over channels of max |x|"),
        column("rms", f64, "root mean square of x"),
        column("ratio", f64, "absmax / median_absmax; null where that is 0", nullable=True),
        column("peak_to_rms", f64, "absmax / rms; null where that is 0", nullable=True),
        column("far_channels", i32, "channels whose max |x| is more than 6 times the median channel's"),
        column("energy_share", f64, "the largest channel's share of the sum of x²; null of zeros", nullable=True),
        column("kurtosis", f64, "as if x were normal in each channel; 3: channels alike; null of zeros", nullable=True),
    ],
)

LEARNING = versioned("learning", 1, [*list(LAYER_ERROR)[:4], *LOSSES])

RESCUE_SUMMARY = versioned("rescue_summary", 2, [*VARIANT[:3], *RESCUE])

LATENCY_SUMMARY = versioned(
    "latency_summary",
    2,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("phase", text, "prefill or decode"),
        column("batch_size", i32, "sequences served at once"),
        column("prompt_tokens", i32, "tokens of each prompt", unit="tokens"),
        column("new_tokens", i32, "tokens decoded per sequence (0 for prefill)", unit="tokens"),
        column("workload", text, "its name; null: of the grid of batch sizes and prompt lengths", nullable=True),
        column("repetitions", i32, "timed repetitions"),
        column("seconds_median", f64, "median wall time", unit="s"),
        column("seconds_min", f64, "shortest wall time", unit="s"),
        column("seconds_max", f64, "longest wall time", unit="s"),
        column(
            "tokens_per_second", f64, "processed (prefill) or generated (decode) tokens per second, all sequences, at the median"
        ),
        column(
            "speedup", f64, "baseline's median time / this median time; null of an emulation, or of none like it", nullable=True
        ),
        column("peak_bytes", i64, "largest peak memory", unit="bytes"),
        column("time_to_first_token", f64, "of decode: median prefill before it", unit="s", nullable=True),
        column("time_per_output_token", f64, "of decode: median time / new tokens", unit="s", nullable=True),
        column("user_tokens_per_second", f64, "of decode: new tokens per second of one sequence", nullable=True),
        column(
            "request_tokens_per_second", f64, "of decode: new tokens of all sequences per second, prefill counted", nullable=True
        ),
        column("load_seconds", f64, "median time until the engine was ready", unit="s"),
        column("weight_bytes", i64, "weights as the engine holds them; files of weights, where it does not say", unit="bytes"),
        column("cache_sequences", i64, "sequences of these lengths that the KV cache has room for"),
        column("roofline_share", f64, "least time at the device's measured rates / median time"),
        column("bound_by", text, "what that least time is: compute or memory"),
    ],
)

LATENCY_PARTS = versioned(
    "latency_parts",
    1,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("phase", text, "prefill or decode"),
        column("batch_size", i32, "sequences served at once"),
        column("prompt_tokens", i32, "tokens of each prompt", unit="tokens"),
        column("workload", text, "its name; null: of the grid of batch sizes and prompt lengths", nullable=True),
        column("part", text, "transform, quantize, product, scale or cache of the linears and the cache; or other"),
        column("share", f64, "of the profiled phase's time"),
        column("seconds", f64, "that share of the phase's median time", unit="s"),
        column("kernels", text, "the products that ran, comma-separated; empty: none"),
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

FLIPS = versioned(
    "flips",
    1,
    [
        *VARIANT,
        column("engine", text, "what served the model"),
        column("task", text, "task name"),
        column("completions", i32, "completions of items and seeds that the baseline was asked, too; all replicates"),
        column("both", i32, "of these, right in both"),
        column("lost", i32, "the baseline's right, this one's wrong"),
        column("gained", i32, "the baseline's wrong, this one's right"),
        column("neither", i32, "right in none"),
    ],
)

PROVENANCE = versioned(
    "provenance",
    1,
    [
        column("kind", text, "model, calibration, task, recipe or software"),
        column("name", text, "of the study; software: platform and stage"),
        column("detail", text, "where it comes from, or its settings; software: versions, device and digest of the code"),
        column("files", i32, "files of the study that record this"),
    ],
)
