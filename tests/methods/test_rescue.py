import json
from dataclasses import replace

import pytest
import torch
from ptqflow.artifacts.evidence_schemas import RESCUE
from ptqflow.artifacts.schemas import DIAGNOSTICS, LOSSES
from ptqflow.artifacts.tables import read_metadata, read_table, write_rows
from ptqflow.errors import ArtifactError
from ptqflow.methods.rescue import Ladder, Outcome, scores
from ptqflow.modeling.qparams import QParams
from ptqflow.presets import resolve
from ptqflow.recipes import Recipe
from ptqflow.stages import rescue as stages_rescue
from tiny_models import collect, export, quantize, stage, tiny_model

SITES = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
LINEARS = [name for site in SITES for name in site]


def rescuing(**changes):
    return resolve({"preset": "flatquant-w4a4kv4", "rescue": changes})


def block(error, fallback=None):
    return Outcome(error, dict.fromkeys(LINEARS, 0.01) | {"down_proj": 0.5}, fallback)


def climbed(errors, outcome, **changes):
    asked = []

    def calibrate(layer, overrides):
        asked.append((layer, tuple(overrides)))
        return outcome(layer, overrides)

    ladder = Ladder(rescuing(**changes), [e if isinstance(e, Outcome) else block(e) for e in errors], SITES, calibrate)
    ladder.climb()
    return ladder, asked


def test_only_blocks_beside_themselves_stand_out_whatever_the_trend():
    rising = [0.01 * 1.2**i for i in range(24)]
    assert max(scores(rising)) < 1
    for hard in (0, 7, 23):
        planted = [error * (6 if i == hard else 1) for i, error in enumerate(rising)]
        found = scores(planted)
        assert [i for i, score in enumerate(found) if score > 3.5] == [hard]
    late = [error * (8 if i in (5, 6) else 1) for i, error in enumerate(rising)]
    assert [i for i, score in enumerate(scores(late)) if score > 3.5] == [
        5,
        6,
    ]  # two side by side do not hide each other
    assert scores([1.0, float("nan"), 1.1, 0.9, 1.0])[1] > 3.5
    assert scores([0.1, 9.0]) == [0.0, 0.0]


def test_a_block_whose_error_is_no_number_is_mended():
    ladder, asked = climbed([0.02, float("nan"), 0.02, 0.02], lambda layer, overrides: block(0.02))
    assert ladder.best[1].error == 0.02
    assert [row["kept"] for row in ladder.rows] == [True] == [layer == 1 for layer, _ in asked]


def test_rungs_are_climbed_in_order_until_a_block_stands_out_no_more():
    def learned(layer, overrides):
        return block(0.01 if overrides[0].transform.get("epochs") else 0.1)

    ladder, asked = climbed([0.01] * 4 + [0.2] + [0.01] * 4, learned)
    assert [row["rung"] for row in ladder.rows] == ["slower", "longer"]
    assert {layer for layer, _ in asked} == {4}
    assert [row["kept"] for row in ladder.rows] == [True, True]
    assert [(r["error_before"], r["error_after"], r["calibrations"]) for r in ladder.rows] == [(0.2, 0.1, 1.0), (0.1, 0.01, 3.0)]
    recipe = rescuing().changed(ladder.overrides())
    assert recipe.transform_of(4).epochs == 45
    assert recipe.transform_of(3) == rescuing().transform
    assert recipe.rescue is None


def test_a_worse_attempt_is_not_kept_and_its_changes_are_not_taken_on():
    ladder, _ = climbed([0.01] * 4 + [0.2] + [0.01] * 4, lambda *_: block(0.3), rungs=["slower", "other_start"])
    assert [row["kept"] for row in ladder.rows] == [False, False]
    assert ladder.best[4].error == 0.2
    assert not ladder.overrides()


def test_eight_bits_go_to_the_site_that_lost_most_and_no_further_than_needed():
    def raised(layer, overrides):
        return block(0.01 if any("down_proj" in o.linears for o in overrides if o.linears != "all") else 0.2)

    ladder, _asked = climbed([0.01] * 4 + [0.2] + [0.01] * 4, raised, rungs=["eight_bits"])
    assert [row["at_8_bits"] for row in ladder.rows] == ["down_proj"]
    recipe = rescuing().changed(ladder.overrides())
    at_8 = [(i, name) for i in range(9) for name in LINEARS if recipe.weights(i, name).num_bits == 8]
    assert at_8 == [(4, "down_proj")]
    assert recipe.input_activations(4, "down_proj").num_bits == 8
    assert recipe.input_activations(4, "down_proj").symmetric is False  # as the recipe's own


def test_the_budget_ends_the_climb_and_the_share_of_linears_is_kept():
    never = [0.01] * 4 + [0.2] + [0.01] * 4
    ladder, _asked = climbed(never, lambda *_: block(0.19), budget=7 / 9)
    assert sum(row["calibrations"] for row in ladder.rows) <= 7
    assert [r["rung"] for r in ladder.rows][:2] == ["slower", "longer"]
    ladder, _ = climbed(never, lambda *_: block(0.19), budget=9, at_8_bits=0.0)
    assert not any(row["linears_at_8_bits"] for row in ladder.rows)


@pytest.mark.parametrize("blocks", [3, 4, 6, 9])
@pytest.mark.parametrize("budget", [0.5, 1.0, 1.5])
def test_the_budget_keeps_the_last_rung_for_every_block_that_stands_out(blocks, budget):
    hard = {0, blocks // 2} if blocks > 4 else {blocks - 1}
    errors = [0.2 if layer in hard else 0.01 for layer in range(blocks)]

    def raised(layer, overrides):
        return block(0.01 if any(o.linears == ["down_proj"] for o in overrides) else 0.2 - 0.01 * len(str(overrides)) / 1000)

    ladder, _asked = climbed(errors, raised, budget=budget, at_8_bits=0.2)
    assert sum(row["calibrations"] for row in ladder.rows) <= budget * blocks
    assert max(outcome.error for outcome in ladder.best) == 0.01
    assert sorted(row["layer"] for row in ladder.rows if row["at_8_bits"]) == sorted(hard)
    assert budget < 1 or len(ladder.rows) > len(hard)  # what is left goes to learning


def test_a_block_that_fell_back_stands_out_whatever_its_error():
    errors = [block(0.01)] * 3 + [block(0.011, "no transform")] + [block(0.01)] * 3
    ladder, _ = climbed(errors, lambda *_: block(0.012))
    assert [(r["layer"], r["kept"]) for r in ladder.rows] == [(3, True)]  # learned at last, though its error is no smaller


def test_blocks_that_all_learned_nothing_are_found_by_what_they_were_before_learning():
    def turned(layer, overrides):
        return block(0.02 if overrides[0].transform.get("parametrization") else 0.0295)

    idle = [replace(block(0.03), untrained=0.03) for _ in range(8)] + [replace(block(0.02), untrained=0.03)]
    ladder, _ = climbed(idle, turned, budget=3)
    first = [row["rung"] for row in ladder.rows if row["layer"] == 0]
    assert first == ["slower", "other_start", "other_transform", "longer"]  # one block tries all, cheapest first
    others = [(row["layer"], row["rung"]) for row in ladder.rows if row["layer"] != 0]
    assert others == [(layer, "other_transform") for layer in range(1, 8)]  # the others what helped it; one that learned, nothing
    assert [outcome.error for outcome in ladder.best] == [0.02] * 9
    for blocks in ([*idle], [*idle[:3], idle[-1]]):
        enough, _ = climbed(blocks, turned)
        assert {outcome.error for outcome in enough.best} == {0.02}  # by the default budget, too

    ladder, _ = climbed(idle, lambda *_: block(0.0295), budget=3)
    assert {row["layer"] for row in ladder.rows} == {0}  # nothing helps: the budget is not spent on all
    assert not climbed([replace(o, untrained=0.1) for o in idle], turned)[0].rows
    assert not climbed(idle, turned, least_gain=0.0)[0].rows
    undone = Recipe.model_validate(rescuing().dump() | {"transform": {"name": "flatquant", "epochs": 0}})
    ladder = Ladder(undone, idle, SITES, lambda *_: pytest.fail("nothing was to be learned"))
    ladder.climb()


def test_a_block_that_is_hard_beside_a_common_fault_is_raised_once_all_have_learned():
    def turned(layer, overrides):
        learned = any(o.transform and o.transform.get("parametrization") for o in overrides)
        raised = any(o.linears == ["down_proj"] for o in overrides)
        return block((0.02 if learned else 0.03) * (6 if layer == 4 and not raised else 1))

    errors = [replace(block(0.03 * (6 if layer == 4 else 1)), untrained=0.03 * (6 if layer == 4 else 1)) for layer in range(9)]
    ladder, _ = climbed(errors, turned)
    assert [outcome.error for outcome in ladder.best] == [0.02] * 9
    assert [(row["layer"], row["at_8_bits"]) for row in ladder.rows if row["at_8_bits"]] == [(4, "down_proj")]
    assert rescuing().changed(ladder.overrides()).transform_of(4).parametrization == "svd"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"preset": "gptq-w4a16", "rescue": {}}, "transform none learns nothing; leave rescue out"),
        ({"preset": "flatquant-w4a4kv4", "error_propagation": True, "rescue": {}}, "use error_propagation: false"),
        ({"preset": "flatquant-w4a4kv4", "rescue": {"rungs": ["luck"]}}, "rescue.rungs: unknown luck"),
    ],
)
def test_rescue_is_refused_where_it_makes_no_sense(entry, message):
    with pytest.raises(ValueError, match=message):
        resolve(entry)


def test_rescue_is_part_of_a_recipe_and_no_chunks_concern():
    plain, asked = resolve({"preset": "flatquant-w4a4kv4"}), rescuing(score=3.0)
    assert "rescue" not in plain.dump()
    assert asked.dump()["rescue"]["score"] == 3.0
    assert asked.for_layers(range(2)).dump() == plain.for_layers(range(2)).dump()


@pytest.fixture(scope="module")
def rescued(tmp_path_factory):
    """A model of 6 blocks whose recipe learns nothing in block 3, quantized in 2 chunks; of each up_proj it is noted that it fell
    back.
    """
    work = tmp_path_factory.mktemp("rescue")
    model = tiny_model(work / "model", layers=6)
    calibration = collect(model, work, 2)
    transform = {"name": "flatquant", "epochs": 1}
    hard = {"layers": [3], "linears": ["down_proj"], "weights": {"num_bits": 2, "strategy": "channel"}}
    asked = resolve({"preset": "flatquant-w4a4kv4", "transform": transform, "overrides": [hard], "rescue": {"budget": 3}})
    chunks = quantize(model, calibration, asked, work / "quantized", 2)
    for table in (path.with_name("diagnostics.parquet") for path in chunks):
        rows = read_table(table, DIAGNOSTICS).to_pylist()
        noted = [row | ({"fallback": "rtn", "warning": "unseen"} if row["module"] == "up_proj" else {}) for row in rows]
        write_rows(table, DIAGNOSTICS, noted, read_metadata(table))
    return work, model, calibration, asked, chunks


def rescue(rescued, folder, status=0):
    _work, model, calibration, asked, chunks = rescued
    files = {kind: [path.with_name(f"{kind}.parquet") for path in chunks] for kind in ("diagnostics", "losses")}
    options = ["--model", model / "manifest.json", "--calibration", calibration, "--qparams", *chunks]
    options += ["--diagnostics", *files["diagnostics"], "--losses", *files["losses"]]
    output = folder / "qparams.safetensors"
    outputs = ("--output", output, "--table", folder / "rescue.parquet")
    assert stage("rescue", {"recipe": asked.dump()}, *options, *outputs) == status
    if status:
        return output, []
    return output, read_table(folder / "rescue.parquet", RESCUE).to_pylist()


def test_a_hard_block_is_found_and_raised_and_no_other_is_touched(rescued, monkeypatch):
    work, model, _, asked, chunks = rescued
    output, rows = rescue(rescued, work / "rescued")
    tried = {row["layer"] for row in rows}
    own = [row for row in rows if row["layer"] == 3]
    assert 3 in tried
    assert own[0]["score_before"] > 3.5
    assert own[-1]["rung"] == "eight_bits"
    assert own[-1]["kept"]
    assert "down_proj" in own[-1]["at_8_bits"]
    assert min(row["error_after"] for row in own) < 0.5 * own[0]["error_before"]
    before, after = QParams(chunks), QParams([output])
    changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    assert changed
    assert {int(name.split(".")[2]) for name in changed} <= tried
    assert set(before) <= set(after)
    noted = after.metadata[output]  # of linears, too, but for those of the blocks that a better attempt replaced
    left = 6 - len({row["layer"] for row in rows if row["kept"]})
    assert (noted["fallbacks"], noted["warnings"]["unseen"]) == ({"rtn": left}, left)

    folder = export(model, [output], asked, work / "checkpoint")
    origin = json.loads((folder / "ptqflow.json").read_text())
    assert origin["rescued"]
    assert origin["settings"]["recipe"] == asked.dump()
    assert stage(
        "export",
        {"recipe": asked.dump(), "form": "fake"},
        *("--model", model / "manifest.json", "--qparams", *chunks, "--output", work / "other" / "manifest.json"),
    )  # chunks that were not rescued are refused

    def cut(*_):
        raise ArtifactError("cut off")

    def never(*_, **__):
        raise AssertionError("calibrated again")

    with monkeypatch.context() as patch:
        patch.setattr(stages_rescue, "_write", cut)
        rescue(rescued, work / "again", status=2)
    monkeypatch.setattr(stages_rescue, "quantize_layer", never)
    again, resumed = rescue(rescued, work / "again")  # the attempts of the run before serve
    assert [r["error_after"] for r in resumed] == [r["error_after"] for r in rows]
    assert not again.with_name("attempts").exists()


PAPERS_SHARE = (67.2 - 29.2) / (73.3 - 29.2)  # of the lost accuracy, that tuning single layers by hand won back


@pytest.mark.slow
@pytest.mark.parametrize("emulate", [None, "E0"])
def test_hard_layers_in_several_blocks_are_found_and_give_back_more_than_the_papers_share(tmp_path, emulate):
    """Twelve blocks, down_proj of three of them at 2 bits, with the fault of all and without; nobody says which."""
    model = tiny_model(tmp_path / "model", layers=12, outliers=False)
    calibration = collect(model, tmp_path)
    hard = {"layers": [2, 6, 7], "linears": ["down_proj"], "weights": {"num_bits": 2, "strategy": "channel"}}

    def recipe(emulate, *overrides):
        transform = {"name": "flatquant", "epochs": 2, "guarded": False, "emulate": emulate}
        return resolve({"preset": "flatquant-w4a4kv4", "transform": transform, "overrides": [*overrides], "rescue": {}})

    def errors(chunks):
        losses = read_table(chunks[0].with_name("losses.parquet"), LOSSES).to_pylist()
        measured = {(r["layer"], r["measure"]): r["value"] for r in losses}
        return [measured[i, "deployed_held_out_loss"] / measured[i, "held_out_update"] for i in range(12)]

    healthy = errors(quantize(model, calibration, recipe(None), tmp_path / "healthy"))
    harmed = quantize(model, calibration, recipe(emulate, hard), tmp_path / "harmed")
    _, rows = rescue((tmp_path, model, calibration, recipe(emulate, hard), harmed), tmp_path / "rescued")
    before, after = errors(harmed), errors(harmed)
    for row in (row for row in rows if row["kept"]):
        after[row["layer"]] = row["error_after"]
    lost, left = (sum(found) - sum(healthy) for found in (before, after))
    raised = {(row["layer"], row["at_8_bits"]) for row in rows if row["kept"] and row["at_8_bits"]}
    print(f"{emulate}: errors lost {lost:.4f}, left {left:.4f} (healthy {sum(healthy):.4f}); at 8 bits {sorted(raised)}")
    print("calibrations", sum(row["calibrations"] for row in rows), [f"{e:.3f}" for e in healthy], [f"{e:.3f}" for e in before])
    assert 1 - left / lost >= PAPERS_SHARE
    assert raised == {(layer, "down_proj") for layer in (2, 6, 7)}
