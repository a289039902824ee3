"""Stage tokens: what one calibration token stream holds, and how windows are drawn from it."""

import json
import random
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupt import assert_survives_kills, contents, random_moments, run, stage_command
from model_folder import BOS, EOS, write_model, write_tokenizer
from ptqflow.artifacts.datasets import load_rows
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import TOKENS
from ptqflow.artifacts.tables import read_metadata, read_table
from ptqflow.calibration import CalibrationSettings, documents, token_stream, window_rows, windows
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.sources import Source
from ptqflow.stages import fetch, tokens

TRACES = [{"id": f"t{i}", "prompt": f"What is {i} + {i}?", "completion": f"I add.\n</think>\nIt is {2 * i}."} for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model") / "source"))


def load(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """manifest.json of a fetched model."""
    root = tmp_path_factory.mktemp("fetched")
    fetch.run(fetch.Settings(path=str(write_model(root / "source"))), Namespace(output=root / "m" / "manifest.json", part=None))
    return root / "m" / "manifest.json"


def settings(**changes) -> CalibrationSettings:
    return CalibrationSettings.model_validate({"source": {"path": "x.jsonl"}, "samples": 4, "sequence_length": 16, **changes})


def texts(rows, tokenizer, **changes) -> dict[str, str]:
    """Row id -> what the stream holds of the row, decoded."""
    chosen = settings(**changes)
    stream = token_stream(documents(rows, chosen, tokenizer), chosen, tokenizer)
    ends = [*stream.starts[1:], len(stream.tokens)]
    return {i: tokenizer.decode(stream.tokens[a:b].tolist()) for i, a, b in zip(stream.ids, stream.starts, ends, strict=True)}


# ---- what a row becomes


def test_chat_prompt_passes_the_template_and_the_completion_follows_as_generated(tokenizer):
    found = texts(TRACES[:1], tokenizer, format="chat")
    assert found == {"t0": f"{BOS}<|user|>What is 0 + 0?<|assistant|><think>\nI add.\n</think>\nIt is 0.{EOS}"}


def test_thinking_opened_by_template_and_completion_is_opened_once(tokenizer):
    row = TRACES[0] | {"completion": "<think>\nI add.\n</think>\nIt is 0."}
    assert texts([row], tokenizer, format="chat") == texts(TRACES[:1], tokenizer, format="chat")


def test_thinking_of_the_last_turn_survives_templates_that_drop_it(tokenizer):
    """The template keeps only what follows </think> of assistant turns: right for past turns, never for the completion."""
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "past</think>b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "new</think>d"},
    ]
    text = texts([{"messages": messages}], tokenizer, format="chat")["0"]
    assert text == f"{BOS}<|user|>a<|assistant|>b{EOS}<|user|>c<|assistant|><think>\nnew</think>d{EOS}"


def test_every_row_has_one_beginning_token(tokenizer):
    assert all(text.count(BOS) == 1 for text in texts(TRACES, tokenizer, format="chat").values())


def test_a_plain_stream_has_one_beginning_token_at_its_start(tokenizer):
    chosen = settings()
    stream = token_stream(documents([{"text": "one"}, {"text": "two"}], chosen, tokenizer), chosen, tokenizer)
    assert stream.tokens[0] == tokenizer.bos_token_id
    assert stream.tokens.count(tokenizer.bos_token_id) == 1


def test_a_trace_cut_at_its_token_limit_has_no_end(tokenizer):
    assert not texts([TRACES[0] | {"finish_reason": "length"}], tokenizer, format="chat")["t0"].endswith(EOS)


def test_plain_rows_are_stripped_and_separated_by_an_empty_line(tokenizer):
    rows = [{"text": " one \n"}, {"text": "  "}, {"text": ""}, {"text": "two"}]
    assert texts(rows, tokenizer) == {"0": "one\n\n", "3": "two\n\n"}
    assert texts([{"prompt": "p", "completion": "full"}], tokenizer) == {"0": "pfull\n\n"}


def test_a_row_without_an_id_is_called_by_its_number(tokenizer):
    assert texts([{"text": "one"}, {"text": "two", "id": None}, {"text": "three", "id": 7}], tokenizer).keys() == {"0", "1", "7"}


def test_prompt_only_leaves_completions_out(tokenizer):
    assert "I add" not in "".join(texts(TRACES, tokenizer, format="chat", trace="prompt_only").values())


def test_columns_are_named_by_fields(tokenizer):
    rows = [{"problem": "p", "generated_text": "a text", "unique_id": 7}]
    fields = {"prompt": "problem", "completion": "generated_text", "id": "unique_id"}
    assert texts(rows, tokenizer, fields=fields) == {"7": "pa text\n\n"}


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"question": "q", "answer": "a"}], {}, r"row 0 has no column 'prompt' but 'question', 'answer'; name the columns"),
        ([{"text": "t"}], {"format": "chat"}, "has no column 'completion' but 'text'.*another format than chat"),
        ([{"prompt": "p", "completion": ["a", "b"]}], {}, "completion is a list, not text; give one string per row"),
        ([{"text": None}], {}, "text is a NoneType, not text"),
        ([{"messages": [{"role": "user", "content": "q"}]}], {"format": "chat"}, "turns do not end with the assistant's"),
        ([{"messages": "hello"}], {"format": "chat"}, "not a list of messages"),
        ([{"messages": ["q", {"role": "assistant", "content": "a"}]}], {"format": "chat"}, "not a list of messages"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_the_columns_found(tokenizer, rows, changes, message):
    with pytest.raises(ConfigError, match=message):
        documents(rows, settings(**changes), tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{oops\n', r"x\.jsonl is not readable as jsonl \(line 2: "),
        (b'[{"text": "a"}]\n', r"line 1 is not an object \{\.\.\.\} but a list; one row per line"),
        ('{"text": "größe"}'.encode("latin-1"), "x.jsonl is not readable as jsonl"),
    ],
    ids=["syntax", "array", "encoding"],
)
def test_lines_that_are_no_rows_are_refused_with_their_number(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_rows(Source(path=str(tmp_path / "x.jsonl")))


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert load_rows(Source(path=str(tmp_path / "x.jsonl"))) == [{"text": "a"}, {"text": "b"}]


def test_a_table_may_hold_long_traces_and_empty_lines(tmp_path):
    long = "x" * 200_000
    (tmp_path / "x.csv").write_text(f"prompt,completion\na,{long}\n\nb,\n\n")
    rows = [{"prompt": "a", "completion": long}, {"prompt": "b", "completion": None}]
    assert load_rows(Source(path=str(tmp_path / "x.csv"))) == rows


def test_a_table_that_names_two_columns_alike_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text(",prompt,completion,prompt,\n0,a,b,c,\n")
    with pytest.raises(ArtifactError, match="its header names 'prompt' twice"):
        load_rows(Source(path=str(tmp_path / "x.csv")))
    (tmp_path / "x.csv").write_text(",prompt,completion,\n0,a,b,\n")  # as spreadsheets write columns without a name
    assert load_rows(Source(path=str(tmp_path / "x.csv")))[0]["prompt"] == "a"


def test_without_a_split_calibration_reads_the_training_split_and_a_task_the_test_split(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": split}))
    calibration = CalibrationSettings(source={"path": str(tmp_path)}).source
    assert load_rows(calibration) == [{"text": "train"}]
    assert load_rows(Source(path=str(tmp_path))) == [{"text": "test"}]
    assert load_rows(calibration.model_copy(update={"split": "test"})) == [{"text": "test"}]


@pytest.mark.parametrize("shape", ["chat", "plain"])
def test_completions_of_one_character_are_refused(tokenizer, shape):
    """The published pipeline took `generated_text[0]` of a string: its traces were prompts and one character."""
    rows = [row | {"completion": row["completion"][0]} for row in TRACES]
    with pytest.raises(ConfigError, match=r"1\.00 tokens long on average"):
        texts(rows, tokenizer, format=shape)


def test_chat_without_a_template_is_refused(tmp_path):
    write_tokenizer(tmp_path / "m", chat_template=None)
    with pytest.raises(ConfigError, match="no chat template; use format: plain"):
        documents(TRACES, settings(format="chat"), load(tmp_path / "m"))


# ---- windows


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 20), st.integers())
def test_windows_lie_within_the_stream_and_are_disjoint_where_they_can_be(total, samples, length, seed):
    if total < length:
        with pytest.raises(ConfigError, match=f"holds {total} tokens, less than one window"):
            windows(total, samples, length, seed)
        return
    offsets, disjoint = windows(total, samples, length, seed)
    assert len(offsets) == samples
    assert all(0 <= offset <= total - length for offset in offsets)
    assert disjoint == (total // length >= samples)
    if disjoint:
        assert all(b - a >= length for a, b in zip(sorted(offsets), sorted(offsets)[1:], strict=False))
    assert (offsets, disjoint) == windows(total, samples, length, seed)


def test_no_more_rows_are_tokenized_than_windows_need(tokenizer):
    """A random part of the rows, by the seed, and the beginning of what all of them would make."""
    rows = [{"text": f"row {number} of the source"} for number in range(2000)]

    def read(samples, seed=0):
        chosen, done = settings(samples=samples, seed=seed), []
        stream = token_stream(documents(rows, chosen, tokenizer), chosen, tokenizer, done.append)
        assert sum(done) == len(stream.ids) == len(stream.starts)
        return stream

    few, whole = read(4), read(10_000)
    assert 8 * 4 * 16 <= len(few.tokens) < len(whole.tokens) / 4
    assert len(whole.ids) == 2000
    assert whole.tokens[: len(few.tokens)] == few.tokens
    assert set(few.ids) != set(read(4, seed=1).ids)
    assert max(map(int, few.ids)) > 1000


def test_windows_name_the_rows_they_overlap(tokenizer):
    chosen = settings()
    stream = token_stream(documents([{"text": "aaaa"}, {"text": "bbbb"}, {"text": "cccc"}], chosen, tokenizer), chosen, tokenizer)
    for row in window_rows(stream, range(len(stream.tokens) - 4), 5, "x"):
        letters = set(tokenizer.decode(row["tokens"], skip_special_tokens=True)) - {"\n"}
        named = {"abc"[int(name)] for name in row["rows"]}
        assert letters <= named  # a window may begin in a row's closing empty line
        assert len(named - letters) <= 1
        assert row["tokens"] == stream.tokens[row["offset"] : row["offset"] + 5].tolist()


# ---- the stage


def draw(folder: Path, model: Path, rows=TRACES, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "traces.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = tokens.Settings.model_validate(
        {"source": {"path": str(source)}, "format": "chat", "samples": 8, "sequence_length": 32} | changes
    )
    tokens.run(chosen, Namespace(model=model, output=folder / "tokens.parquet", code=None))
    return read_table(folder / "tokens.parquet", TOKENS)


def test_the_seed_alone_decides(model, tmp_path):
    random.seed(1)
    np.random.seed(1)
    first = draw(tmp_path, model, seed=3)
    random.seed(2)
    np.random.seed(2)
    state = random.getstate()
    assert draw(tmp_path, model, seed=3).equals(first)
    assert random.getstate() == state
    other = draw(tmp_path, model, seed=4)
    assert other["offset"].to_pylist() != first["offset"].to_pylist()
    assert other["tokens"].to_pylist() != first["tokens"].to_pylist()


def test_the_file_says_how_it_was_drawn(model, tmp_path, capsys):
    table = draw(tmp_path, model)
    metadata = read_metadata(tmp_path / "tokens.parquet")
    assert metadata["windows"] == "disjoint"
    assert metadata["stream_rows"] == 40
    assert metadata["mean_completion_tokens"] > 15
    assert {len(window) for window in table["tokens"].to_pylist()} == {32}
    assert table["sequence"].to_pylist() == list(range(8))
    draw(tmp_path, model, samples=500)
    assert read_metadata(tmp_path / "tokens.parquet")["windows"] == "with replacement"
    assert "drawn with replacement" in capsys.readouterr().err


def test_a_changed_tokenizer_is_refused(model, tmp_path):
    copy = tmp_path / "m"
    shutil.copytree(model.parent, copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has .* bytes"):
        draw(tmp_path, copy / "manifest.json")


def test_a_killed_draw_leaves_nothing_half_written(model, tmp_path):
    draw(tmp_path / "in", model)
    chosen = {"source": {"path": str(tmp_path / "in/traces.jsonl")}, "format": "chat", "samples": 200, "sequence_length": 64}
    command = stage_command("tokens", json.dumps(chosen), "--model", model, "--output", "out/tokens.parquet")
    seconds = run(command, tmp_path)
    expected = contents(tmp_path / "out")
    (tmp_path / "out/tokens.parquet").unlink()
    moments = random_moments(2, seconds, seed=2)
    assert_survives_kills(command, tmp_path, tmp_path / "out", expected, moments, last="tokens.parquet")


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "place", "fields"),
    [
        ("gsm8k", {"subset": "main", "split": "train"}, {"prompt": "question", "completion": "answer"}),
        ("MATH-500", {"split": "test"}, {"prompt": "problem", "completion": "solution", "id": "unique_id"}),
    ],
)
def test_worked_solutions_of_hub_data_sets_serve_as_traces(data_root, model, tmp_path, folder, place, fields):
    source = {"path": str(data_root / folder), **place}
    chosen = tokens.Settings(source=source, format="chat", samples=64, sequence_length=256, fields=fields)
    tokens.run(chosen, Namespace(model=model, output=tmp_path / "tokens.parquet", code=None))
    table = read_table(tmp_path / "tokens.parquet", TOKENS)
    assert table.num_rows == 64
    assert read_metadata(tmp_path / "tokens.parquet")["windows"] == "disjoint"
    assert all(table["rows"].to_pylist())


def test_a_tokenizer_larger_than_the_embedding_is_refused(model, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(model.parent, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    manifest = Manifest.read(folder / "manifest.json")
    Manifest.of_folder(folder, manifest.files, manifest.origin).write(folder)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, TRACES)))
    chosen = tokens.Settings(source={"path": str(tmp_path / "rows.jsonl")}, samples=2, sequence_length=8)
    with pytest.raises(ConfigError, match=r"the tokenizer gives token \d+, beyond the 100 rows of the model's embedding"):
        tokens.run(chosen, Namespace(model=folder / "manifest.json", output=tmp_path / "t.parquet", code=""))
