"""Whatever a configuration or a data set holds, the answer is a plan or one sentence: no traceback, no hang, nothing taken for
something else. The fast suite draws few examples, the slow one (`--slow`) thousands.
"""

import copy
import json
import os
import time
from typing import ClassVar

import pytest
import yaml
from checkout import REPOSITORY
from fuzzing import SECONDS, fuzz, scalars, values
from hypothesis import given
from hypothesis import strategies as st
from ptqflow import configfile
from ptqflow.artifacts.datasets import load_rows
from ptqflow.calibration import CalibrationSettings, documents
from ptqflow.checked import load
from ptqflow.errors import ConfigError, PtqflowError
from ptqflow.evaluation.benchmark import known_benchmarks, load_items
from ptqflow.jobs import Jobs
from ptqflow.sources import Source
from ptqflow.table_jobs import TableJobs

DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def places(node, path=()):
    """Every place of a configuration."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


@st.composite
def configurations(draw):
    """The default study with one to three values replaced, removed, added or moved."""
    config = copy.deepcopy(DEFAULT)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([place for place in places(config) if place]))
        parent = config
        for key in path[:-1]:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "move"])):
            case "replace":
                parent[path[-1]] = draw(values)
            case "remove":
                del parent[path[-1]]
            case "add" if isinstance(parent, dict):
                parent[draw(st.one_of(scalars, st.sampled_from(sorted(known_keys()))))] = draw(values)
            case "move":
                other = draw(st.sampled_from([place for place in places(DEFAULT) if place]))
                value = DEFAULT
                for key in other:
                    value = value[key]
                parent[path[-1]] = copy.deepcopy(value)
    return config


def known_keys():
    schema = json.loads((REPOSITORY / "workflow/schemas/config.schema.json").read_text())
    return {name for definition in schema["$defs"].values() for name in definition.get("properties", {})}


def planned(config):
    """All that planning asks of a study; None where it is refused in one sentence."""
    start = time.perf_counter()
    try:
        jobs = Jobs(study := load(config))
        tables = TableJobs(study)
        for stage in (tables.aggregate_files, tables.aggregate_inputs, tables.aggregate, tables.figures):
            stage()
        for model in list(study.models)[:3]:
            for recipe in study.chosen[:3]:
                jobs.quantize(model, recipe, 0), jobs.export(recipe, "fake"), jobs.verify(recipe, "fake")
    except PtqflowError:
        study = None
    assert time.perf_counter() - start < SECONDS, config
    return study


def agrees(written, read):
    """Whether a validated value is what was written: the same number (however it is spelled), name, list or part."""
    if isinstance(written, dict):
        return all(agrees(value, read.get(key)) for key, value in written.items() if isinstance(read, dict) and key in read)
    if isinstance(written, list | tuple):
        return isinstance(read, list | tuple) and len(written) == len(read) and all(map(agrees, written, read))
    if isinstance(read, bool):
        return read == written if isinstance(written, bool) else str(written).lower() in SPELLED[read]
    if isinstance(read, int | float):
        return not isinstance(written, bool) and float(written) == float(read)
    return written == read or (isinstance(written, str) and os.path.expanduser(written) == read)


SPELLED = {True: {"1", "1.0", "yes", "on", "true", "t", "y"}, False: {"0", "0.0", "-0.0", "no", "off", "false", "f", "n"}}
PARTS = ("models", "calibrations", "calibration", "tasks", "suites", "latency", "platform", "run")


@pytest.mark.parametrize("strength", fuzz(60, 2000))
def test_any_configuration_is_planned_as_written_or_refused_in_a_sentence(strength, monkeypatch):
    monkeypatch.chdir(REPOSITORY)

    @strength
    @given(configurations())
    def check(config):
        study = planned(config)
        if study is not None:
            dump = study.model_dump(mode="json")
            for part in PARTS:
                assert part not in config or agrees(config[part], dump[part]), (part, config[part], dump[part])
            for name in config["recipes"]:
                entry = config["recipes"][name]
                assert agrees({k: v for k, v in entry.items() if k != "preset"}, study.recipes[name].dump()), (entry, name)

    check()


@pytest.mark.parametrize("strength", fuzz(40, 500))
def test_any_text_is_a_configuration_or_refused_in_a_sentence(strength, tmp_path):
    """Lines of the default study exchanged, cut and mixed with what YAML finds special."""
    lines = (REPOSITORY / "config.yaml").read_text().splitlines()
    odd = st.sampled_from(
        ["&a [*a]", "<<: *a", "? x", "- -", "!!python/object/apply:os.system ['x']", "!!binary x", "%TAG", "---", "x: |"]
    )
    texts = st.lists(st.one_of(st.sampled_from(lines), odd, st.text(max_size=20)), max_size=12).map("\n".join)

    @strength
    @given(texts)
    def check(text):
        path = tmp_path / "c.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        start = time.perf_counter()
        try:
            assert isinstance(configfile.read(path), dict)
        except ConfigError as error:
            assert str(path) in str(error)  # noqa: PT017
        assert time.perf_counter() - start < SECONDS

    check()


# ---- rows of data

KEYS = [
    "id",
    "question",
    "answer",
    "choices",
    "text",
    "prompt",
    "completion",
    "messages",
    "problem",
    "unique_id",
    "ctx",
    "endings",
]
KEYS += ["goal", "sol1", "sol2", "label", "sentence", "option1", "option2", "finish_reason"]
GOOD = {
    "id": "a",
    "question": "1 + 1?",
    "answer": "2",
    "text": "words",
    "prompt": "p",
    "completion": "some words",
    "problem": "x?",
}
GOOD |= {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "choices": ["a", "b"], "label": 0}


@st.composite
def lines_of_rows(draw):
    """JSON lines: sound rows with some columns replaced, or no rows at all."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        row = GOOD | draw(st.dictionaries(st.sampled_from(KEYS), values, max_size=3))
        for gone in draw(st.lists(st.sampled_from(KEYS), max_size=2)):
            row.pop(gone, None)
        text = json.dumps(row, default=str, skipkeys=True)
        found.append(draw(st.sampled_from([text, text, text, text[:-1], "[]", "", "null", '{"a": ' + "[" * 3000])))
    return "\n".join(found)


class Tokenizer:
    """What `documents` asks of one."""

    chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    eos_token = "</s>"
    special_tokens_map: ClassVar = {"eos_token": eos_token}

    def get_chat_template(self):
        return self.chat_template


@pytest.mark.parametrize("strength", fuzz(60, 700))
def test_any_row_is_read_as_it_stands_or_refused_in_a_sentence(strength, tmp_path):
    @strength
    @given(lines_of_rows(), st.sampled_from(known_benchmarks()), st.sampled_from(["plain", "chat"]))
    def check(text, name, form):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        source = Source(path=str(path))
        start = time.perf_counter()
        try:
            for item in load_items("task", name, source):
                for shown in vars(item).values():
                    assert shown is not None
                    assert shown not in ("None", "nan", " None")
        except PtqflowError as error:
            assert str(path) in str(error)  # noqa: PT017
        try:
            chosen = CalibrationSettings(source={"path": str(path)}, format=form)
            for document in documents(load_rows(source), chosen, Tokenizer()):
                assert isinstance(document.prompt + document.completion, str)
        except PtqflowError as error:
            assert str(path) in str(error)  # noqa: PT017
        assert time.perf_counter() - start < SECONDS

    check()
