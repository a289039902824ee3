"""What jobs ask for is within a factor of 1.5 of what they were measured to take, and grows with the model and each failure."""

import json
from pathlib import Path

import pytest
import yaml
from ptqflow import demands
from ptqflow.checked import load
from ptqflow.demands import MB, ROOM, Demand, Dimensions
from ptqflow.errors import ConfigError
from ptqflow.needs import Needs, name_of, within
from ptqflow.presets import resolve
from ptqflow.slurm import Limits

ROOT = Path(__file__).resolve().parents[2]
DEMO = Dimensions.of(json.loads((ROOT / "resources/demo-model/config.json").read_text()), on_device=False)
# benchmarks/peer_models.py: random-111m, stored in bfloat16
QWEN2 = {"model_type": "qwen2", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "dtype": "bfloat16"}
QWEN2 |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 8192, "tie_word_embeddings": False}
GPTQ = resolve({"preset": "gptq-w4a16"})
LIMITS = Limits("npu", cpus=4, mem_mb=1500, minutes=60, gres={"npu": 2})


@pytest.mark.parametrize(
    ("demand", "measured_mb"),
    [
        (demands.collect(DEMO, 64 * 256, False), 512),
        (demands.quantize(DEMO, DEMO.layers, 64 * 256, 256, GPTQ, False), 599),
        (demands.export(DEMO), 316),
        (demands.verify(DEMO, False), 515),
        (demands.generate(DEMO, {"max_new_tokens": 256, "limit": 100}, 100, False), 712),
        (demands.generate(DEMO, {"window": 256}, 100, False), 868),
        (demands.measure(DEMO, 8, 80, 8, False), 502),
        (demands.small(), 358),
    ],
)
def test_memory_of_the_demo_model_is_what_was_measured(demand, measured_mb):
    assert 1 / 1.5 <= demand.mem_mb / ROOM / measured_mb <= 1.5


def test_memory_of_larger_models_is_what_was_measured(larger, smollm2):
    """benchmarks/demand.py; those of 111M parameters: benchmarks/peer_models.py."""
    group = {"scheme": {"weights": {"group_size": 64}}}
    for demand, measured in (
        (demands.quantize(larger, larger.layers, 32 * 512, 512, GPTQ, False), 1091),
        (demands.measure(larger, 8, 80, 8, False), 1066),
        (demands.rotate(smollm2), 1324),
        (demands.quantize(smollm2, 4, 16 * 256, 256, resolve({"preset": "gptq-w4a16"} | group), False), 682),
        (demands.quantize(smollm2, 4, 16 * 256, 256, resolve({"preset": "awq-w4a16"} | group), False), 621),
        (demands.export(smollm2), 821),
        (demands.verify(smollm2, False), 1437),
        (demands.generate(smollm2, {"max_new_tokens": 32, "limit": 8}, 8, False), 1108),
        (demands.generate(smollm2, {"window": 256, "limit": 8}, 8, False), 1500),
        (demands.rotate(random_284m()), 1376),
        (demands.quantize(random_284m(), 4, 16 * 256, 256, resolve({"preset": "gptq-w4a16"} | group), False), 938),
        (demands.quantize(random_284m(), 4, 16 * 256, 256, resolve({"preset": "flatquant-w4a4kv4"}), False), 1501),
        (demands.collect(random_284m(), 16 * 256, False), 799),
        (demands.export(random_284m()), 981),
        (demands.verify(random_284m(), False), 2203),
        (demands.generate(random_284m(), {"max_new_tokens": 32, "limit": 8}, 8, False), 2060),
        (demands.generate(random_284m(), {"window": 256, "limit": 8}, 8, False), 2060),
        (demands.measure(random_284m(), 8, 68, 4, False), 2064),
    ):
        assert 1 / 1.5 <= demand.mem_mb / ROOM / measured <= 1.5, (demand, measured)


def test_a_block_that_is_learned_holds_copies_and_what_the_gradients_of_a_step_need(smollm2):
    for blocks, batch_size, measured in ((4, 4, 888), (1, 4, 860), (1, 1, 754), (1, 8, 977)):
        flat = resolve({"preset": "flatquant-w4a4kv4", "transform": {"epochs": 1, "batch_size": batch_size}})
        estimated = demands.quantize(smollm2, blocks, 16 * 256, 256, flat, False).mem_mb / ROOM
        assert 1 / 1.1 <= estimated / measured <= 1.1, (blocks, batch_size)


def random_284m():
    shape = {"hidden_size": 1152, "num_hidden_layers": 20, "num_attention_heads": 18, "num_key_value_heads": 6}
    return Dimensions.of(QWEN2 | shape, on_device=False)


@pytest.fixture
def smollm2():
    """SmolLM2-135M, stored in float32."""
    config = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "dtype": "float32"}
    config |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
    return Dimensions.of(config, on_device=False)


@pytest.fixture
def larger():
    return Dimensions.of(QWEN2, on_device=False)


def test_each_failure_asks_for_more_within_what_a_node_has():
    first = Demand(8, 600, 20)
    assert within(first, 1, None, "x") == first
    assert [within(first, n, LIMITS, "x").mem_mb for n in (1, 2, 3)] == [900, 1350, 1500]
    assert [within(first, n, LIMITS, "x").minutes for n in (1, 2, 3)] == [20, 40, 60]
    assert within(first, 1, LIMITS, "x").threads == 4
    with pytest.raises(
        ConfigError, match=r"quantize of m needs some 1600 MB, but no node of partition npu has more than 1500; use"
    ):
        within(Demand(1, 1300, 20), 1, LIMITS, "quantize of m")


def test_a_small_model_takes_one_core_and_a_large_one_more():
    billions = QWEN2 | {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64}
    large = Dimensions.of(billions | {"num_attention_heads": 40, "num_key_value_heads": 8}, on_device=True)
    assert demands.collect(DEMO, 1000, False).threads == 1
    assert demands.collect(large, 1000, True).threads > 4
    assert demands.verify(large, True).mem_mb * MB > large.parameters * 4


def test_a_batch_holds_no_more_than_the_items_that_are_asked():
    for protocol, items in (({"max_new_tokens": 256, "limit": 8, "completions": 2}, 16), ({"window": 256, "limit": 8}, 8)):
        assert demands.generate(DEMO, protocol, 1000, False) == demands.generate(DEMO, protocol, items, False)
    assert demands.generate(DEMO, {"limit": 8}, 32, False).mem_mb > demands.generate(DEMO, {"limit": 8}, 8, False).mem_mb


def test_a_device_holds_the_cache_of_long_answers_itself(larger):
    def asked(new: int, device: bool) -> int:
        return demands.generate(larger, {"max_new_tokens": new}, 64, device).mem_mb

    assert asked(32768, True) == asked(256, True)
    assert asked(32768, False) - asked(256, False) > 0.9 * 64 * 32512 * larger.cache * 4 / MB


def test_a_model_that_devices_share_asks_for_them_and_for_a_process_each(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["latency"]["shared"] = {
        "engine": "vllm",
        "forms": ["compressed-tensors"],
        "tensor_parallel": 2,
    }
    needs = Needs(load(config))
    w = {"platform": "cpu", "model": "demo", "variant": "baseline", "timing": "shared", "task": "arithmetic", "seed": "0"}
    assert [needs.ranks(stage, w | {"engine": "transformers"}) for stage in ("measure", "generate", "verify")] == [2, 1, 1]
    assert needs.most_ranks == 2
    config["latency"]["shared"]["tensor_parallel"] = {"demo": 4}
    assert (Needs(load(config)).ranks("measure", w), Needs(load(config)).most_ranks) == (4, 4)
    alone = demands.shared(needs._of("measure", w, DEMO), 1)
    assert needs.of("measure", w).mem_mb - alone.mem_mb == int(2 * demands.PYTHON_MB["torch"] * ROOM)


def test_every_stage_of_a_study_has_a_demand(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load(yaml.safe_load(Path("config.yaml").read_text()))
    w = {"platform": "cpu", "model": "demo", "recipe": "gptq-w4", "chunk": "1", "form": "fake", "variant": "baseline"}
    w |= {"engine": "transformers", "task": "text", "seed": "0", "timing": "transformers", "calibration": "traces"}
    stages = (
        "fetch",
        "rotate",
        "tokens",
        "collect",
        "quantize",
        "rescue",
        "export",
        "verify",
        "generate",
        "score",
        "measure",
        "aggregate",
    )
    for stage in (*stages, "plot", "selftest"):
        found = Needs(study).of(stage, w)
        assert found.threads == 1, "the demo's tables depend on it"
        assert 200 < found.mem_mb < 4000
        assert 15 <= found.minutes < 120


def test_a_study_that_no_node_can_hold_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config.yaml").read_text())
    roomy = Limits("npu", cpus=4, mem_mb=16000, minutes=60, gres={"npu": 2})
    Needs(load(config)).check({False: roomy, True: roomy})
    Needs(load(config)).check({})
    config["calibrations"]["traces"] |= {"samples": 200_000, "sequence_length": 512}
    with pytest.raises(ConfigError, match=r"^collect of demo traces needs some \d+ MB, but no node of partition npu has"):
        Needs(load(config)).check({False: roomy, True: roomy})


def test_the_largest_job_is_what_its_rule_will_ask_for(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config.yaml").read_text())
    needs = Needs(load(config))
    name, demand = needs.largest()
    assert name.startswith("generate of demo "), "its windows of perplexity hold most"
    assert demand == max((needs.of(stage, who) for stage, who in needs.jobs()), key=lambda job: job.mem_mb)
    config["calibrations"]["traces"] |= {"samples": 20_000, "sequence_length": 256}
    config["recipes"]["saved"] = {"preset": "gptq-w4a16", "rotation": {"name": "hadamard"}}
    config["run"] = ["saved"]
    needs = Needs(load(config))
    assert needs.largest()[0] == "quantize of demo saved 0"
    rotated = needs.study.source_of("demo", "saved")
    assert {f"rotate of {rotated}", f"collect of {rotated} traces"} <= {
        name_of(stage, who.values()) for stage, who in needs.jobs()
    }
