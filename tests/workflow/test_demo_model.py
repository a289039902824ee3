"""The embedded demo model: its format, its planted outliers, its data and its quality."""

from __future__ import annotations

import copy
import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
MODEL = RESOURCES / "demo-model"
sys.path.insert(0, str(RESOURCES / "recipe"))

import plant  # noqa: E402
import world  # noqa: E402


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def to_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto").eval()


def relative_logit_error(model: Qwen2ForCausalLM, other: Qwen2ForCausalLM) -> float:
    tokens = torch.randint(0, model.config.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(input_ids=tokens).logits, other(input_ids=tokens).logits
    return ((found - expected).norm() / expected.norm()).item()


# ---------------------------------------------------------------------------------------------- format


def test_shape_suits_every_format(model):
    """Groups of 128 and all packings need sizes divisible by 128."""
    assert type(model) is Qwen2ForCausalLM
    for name, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.in_features % 128, module.out_features % 128) == (0, 0), name
    assert 3e6 <= model.num_parameters() <= 6e6
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings >= 1024


def test_weights_are_bfloat16_and_small(model):
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(f.stat().st_size for f in MODEL.rglob("*") if f.is_file()) <= 12e6


def test_marks_and_digits_are_single_tokens(tokenizer):
    for mark in ("<think>", "</think>", "<|User|>", "<|Assistant|>", *"0123456789"):
        assert len(tokenizer(mark)["input_ids"]) == 1, mark
    assert tokenizer.decode(tokenizer("<think>\n7*6=42\n</think>")["input_ids"], skip_special_tokens=True) == (
        "<think>\n7*6=42\n</think>"
    )


def test_tokenizer_returns_every_text(tokenizer):
    """And splits it as tokenizer.json says, whichever class transformers loads it as."""
    from_file = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for text in ("Ada has 12 eggs.\n\n\\boxed{12}", "Straße, 東京 — 1/2 ≠ 0.5\t!", "It's f(x):\n    {x**2}\n\n  # 123,456"):
        tokens = tokenizer(text)["input_ids"]
        assert tokenizer.decode(tokens) == text
        assert from_file.encode(text).ids == tokens


def test_tokenizer_has_the_tokens_of_the_model(model, tokenizer):
    assert len(tokenizer) == model.config.vocab_size


def test_chat_template_opens_the_thinking_section(tokenizer):
    asked = [{"role": "user", "content": "Hello"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin_of_sentence|><|User|>Hello<|Assistant|><think>\n"
    answered = [*asked, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi."}]
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole == prompt + "Hm.\n</think>\n\nHi.<|end_of_sentence|>"
    continued = tokenizer.apply_chat_template([*answered, *asked], tokenize=False, add_generation_prompt=True)
    assert "Hm." not in continued
    assert "<|Assistant|>Hi.<|end_of_sentence|>" in continued


# ---------------------------------------------------------------------------------------------- planted outliers


def test_planting_leaves_the_demo_model_unchanged(model):
    planted = json.loads((MODEL / "planted.json").read_text(encoding="utf-8"))
    float_model = copy.deepcopy(model).float()
    without = copy.deepcopy(float_model)
    plant.unplant(without, planted)
    assert relative_logit_error(without, float_model) < 1e-5
    for row in planted:
        site, block = row["site"], without.model.layers[row["layer"]]
        if site == "attention_norm":
            ratio = float_model.model.layers[row["layer"]].input_layernorm.weight / block.input_layernorm.weight
            assert ratio[row["channels"]].tolist() == list(row["factors"])


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planting_leaves_any_model_unchanged(key_value_heads, dtype):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
    )
    before = Qwen2ForCausalLM(config).eval()
    for parameter in before.parameters():  # biases start at zero, norms at one: make them matter
        torch.nn.init.normal_(parameter, std=0.3)
    before.to(dtype)
    after = copy.deepcopy(before)
    planted = plant.plant(after, seed=3)
    assert relative_logit_error(before.float(), copy.deepcopy(after).float()) < 1e-5
    plant.unplant(after, planted)
    for (name, expected), found in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(expected.to(dtype), found), name


# ---------------------------------------------------------------------------------------------- data


def test_shipped_tasks_are_what_the_recipe_generates():
    for task, rows in world.task_rows().items():
        assert (RESOURCES / "tasks" / task / "test.jsonl").read_bytes() == to_lines(rows), task
    passages = [row["text"] for row in read_rows(RESOURCES / "calibration" / "text.jsonl")]
    assert passages == world.calibration_passages()
    prompts = [row["prompt"] for row in read_rows(RESOURCES / "calibration" / "traces.jsonl")]
    assert prompts == [world.user_message(problem.question) for problem in world.calibration_problems()]


def test_reasoning_is_correct():
    for problem in world.problems("train", "hard", 200, seed=5):
        equations = [word.strip(".,") for word in problem.reasoning.split() if "=" in word]
        for left, right in (equation.split("=") for equation in equations):
            assert eval(left) == int(right), problem.reasoning
        assert problem.answer == equations[-1].split("=")[1]


def test_splits_are_disjoint():
    """By key, and again as strings: nothing tested is calibrated on or trained on."""
    for level in ("typical", "hard"):
        seed = world.TEST_SEED
        assert all(world.split_of(p.key) == "test" for p in world.problems("test", level, 300, seed))
    assert all(world.split_of(p.key) == "calibration" for p in world.calibration_problems())

    tasks = {task: read_rows(RESOURCES / "tasks" / task / "test.jsonl") for task in world.task_rows()}
    tested = {row.get("question") or row["text"] for rows in tasks.values() for row in rows}
    assert len(tested) == sum(len(rows) for rows in tasks.values())
    traces = read_rows(RESOURCES / "calibration" / "traces.jsonl")
    calibrated = {row["prompt"].removesuffix(f"\n\n{world.INSTRUCTION}") for row in traces}
    calibrated |= {row["text"] for row in read_rows(RESOURCES / "calibration" / "text.jsonl")}
    assert not tested & calibrated
    held_out = tested | calibrated
    for document in islice(world.training_documents(seed=0), 30_000):
        text = document.prompt or document.completion
        text = text.removesuffix(f"\n\n{world.INSTRUCTION}").removeprefix("Question: ").removesuffix("\nAnswer:")
        assert text not in held_out


def test_every_tested_fact_is_trained_in_other_forms():
    held_out = {fact.question(fact.held_out_form) for fact in world.FACTS}
    assert {row["question"] for row in read_rows(RESOURCES / "tasks" / "facts" / "test.jsonl")} <= held_out
    trained = {document.prompt for document in islice(world.training_documents(seed=0), 60_000) if "Answer:" in document.prompt}
    assert not trained & {world.question_and_answer(question) for question in held_out}
    assert len(trained) == sum(len(fact.kind.questions) - 1 for fact in world.FACTS)


def test_text_is_long_enough_for_perplexity(tokenizer):
    texts = [row["text"] for row in read_rows(RESOURCES / "tasks" / "text" / "test.jsonl")]
    assert sum(len(ids) for ids in tokenizer(texts)["input_ids"]) >= 16_000


# ---------------------------------------------------------------------------------------------- quality


@torch.inference_mode()
def exact_answers(model: Qwen2ForCausalLM, tokenizer, rows: list[dict]) -> float:
    """Share of rows whose greedy completion boxes the answer; prompts padded on the left."""
    chats = [[{"role": "user", "content": world.user_message(row["question"])}] for row in rows]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=256, do_sample=False)
    completions = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [f"\\boxed{{{row['answer']}}}" in text for row, text in zip(rows, completions, strict=True)]
    return sum(right) / len(right)


@torch.inference_mode()
def likeliest_choices(model: Qwen2ForCausalLM, tokenizer, rows: list[dict]) -> float:
    """Share of rows whose answer has the highest log-likelihood after `Question: …\\nAnswer:`."""
    right = 0
    for row in rows:
        prompt = world.question_and_answer(row["question"])
        start = len(tokenizer(prompt)["input_ids"])
        scores = []
        for choice in row["choices"]:
            tokens = tokenizer(f"{prompt} {choice}", return_tensors="pt")["input_ids"]
            log_probabilities = model(input_ids=tokens).logits[0, start - 1 : -1].float().log_softmax(-1)
            scores.append(log_probabilities.gather(-1, tokens[0, start:, None]).sum().item())
        right += scores.index(max(scores)) == row["answer"]
    return right / len(rows)


def test_model_reasons(model, tokenizer):
    rows = read_rows(RESOURCES / "tasks" / "arithmetic" / "test.jsonl")[:40]
    assert exact_answers(model, tokenizer, rows) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least", "most"), [("arithmetic", 0.90, 1.0), ("arithmetic-hard", 0.40, 0.80)])
def test_full_arithmetic_scores(model, tokenizer, task, least, most):
    rows = read_rows(RESOURCES / "tasks" / task / "test.jsonl")
    assert least <= exact_answers(model, tokenizer, rows) <= most


@pytest.mark.slow
def test_full_facts_score(model, tokenizer):
    rows = read_rows(RESOURCES / "tasks" / "facts" / "test.jsonl")
    assert likeliest_choices(model, tokenizer, rows) >= 0.85
