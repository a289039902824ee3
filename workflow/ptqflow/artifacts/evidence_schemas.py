"""The schemas of what stands beside a study's own scores: published numbers, and what tasks share with calibration sets."""

import pyarrow as pa

from ptqflow.artifacts.tables import column, versioned

i32, f64, text, flag = pa.int32(), pa.float64(), pa.string(), pa.bool_()

PUBLISHED = versioned(
    "published",
    1,
    [
        column("source", text, "paper, repository or documentation"),
        column("table", text, "where in it"),
        column("date", text, "when it was published, or as of when it was read; may be empty, as all that a source does not say"),
        column("device", text, "what ran"),
        column("engine", text, "what served the model"),
        column("protocol", text, "how the task was asked"),
        column("seeds", i32, "runs that the value is a mean of", nullable=True),
        column("tensor_parallel", i32, "devices that share a tensor", nullable=True),
        column("model", text, "model, by its name on the hub"),
        column("recipe", text, "preset that it corresponds to, or the source's own name; baseline"),
        column("task", text, "benchmark with its subset, or average"),
        column("metric", text, "accuracy (percent), perplexity, seconds, ..."),
        column("items", i32, "items that an accuracy is a share of", nullable=True),
        column("value", f64, "the published value"),
        column("printed", text, "the same as printed"),
        column("drop", f64, "the source's own baseline - value, points", nullable=True),
        column("noise", f64, "95 % binomial noise of such a difference, points", nullable=True),
        column("beyond_noise", flag, "the drop is larger than that", nullable=True),
        column("note", text, "the source's conditions; what contradicts the value", nullable=True),
        column("our_platform", text, "platform of our score of the same model, recipe, task and metric", nullable=True),
        column("our_form", text, "its form", nullable=True),
        column("our_engine", text, "its engine", nullable=True),
        column("our_items", i32, "its items", nullable=True),
        column("our_seeds", i32, "its seeds", nullable=True),
        column("our_score", f64, "our score", nullable=True),
        column("our_low", f64, "lower end of its 95 % interval", nullable=True),
        column("our_high", f64, "upper end of its 95 % interval", nullable=True),
    ],
)

RESCUE = versioned(
    "rescue",
    2,
    [
        column("attempt", i32, "in this order"),
        column("layer", i32, "decoder block index"),
        column("rung", text, "what was tried: slower, longer, other_start, other_transform, eight_bits"),
        column("score_before", f64, "robust score of the block's error among all blocks"),
        column("score_after", f64, "the same with what was kept"),
        column("error_untrained", f64, "held-out error before learning (relative, as below); null: none", nullable=True),
        column("error_before", f64, "held-out error of the best so far / mean square of the float block's update"),
        column("error_after", f64, "the same of this attempt"),
        column("kept", flag, "it was better"),
        column("fallback", text, "what was done instead of the recipe, if anything", nullable=True),
        column("seconds", f64, "wall time of the attempt", unit="s"),
        column("calibrations", f64, "what it cost, in calibrations of the block by the recipe"),
        column("at_8_bits", text, "linears that it raised to 8 bits; may be empty"),
        column("linears_at_8_bits", i32, "how many these are"),
    ],
)

OVERLAP = versioned(
    "overlap",
    1,
    [
        column("item", text, "id of the task's item"),
        column("ngrams", i32, "distinct n-grams of its words; 0: too short to be judged"),
        column("found", i32, "those of them in the rows that the calibration set was drawn from"),
        column("seen", flag, "so many that the item is taken for one of these rows"),
    ],
)

OVERLAP_SUMMARY = versioned(
    "overlap_summary",
    1,
    [
        column("model", text, "model for which the calibration set was drawn"),
        column("calibration", text, "calibration set"),
        column("task", text, "task"),
        column("items", i32, "items asked"),
        column("judged", i32, "items long enough to be judged"),
        column("seen", i32, "items that stand in the calibration set"),
        column("marked", flag, "so many that the scores of recipes calibrated on it are marked"),
    ],
)

AGREEMENT = versioned(
    "agreement",
    1,
    [
        column("check", text, "what is compared"),
        column("data", text, "whose rows"),
        column("model", text, "model that was asked"),
        column("engine", text, "what ptqflow asked it in"),
        column("reference", text, "who was asked, too"),
        column("items", i32, "items, windows or pairs", nullable=True),
        column("compared", i32, "alternatives, windows or verdicts", nullable=True),
        column("difference", f64, "largest difference of one of these", unit="nats", nullable=True),
        column("disagreements", i32, "items or pairs that one side alone counts right, windows beyond the limit", nullable=True),
        column("passed", flag, "within the limits of tests/agreement; null: not run", nullable=True),
        column("message", text, "what was found, or why it was not run; may be empty"),
    ],
)
