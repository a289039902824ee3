"""The contracts on disk: outputs are whole or absent, whatever kills the writer; tables, hashes, manifests notice any damage."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupt import environment, stage_command
from model_folder import write_model
from ptqflow.artifacts import evidence_schemas, hashing, schemas, table_schemas
from ptqflow.artifacts.activations import read_activations, write_activations
from ptqflow.artifacts.atomic import atomic_path, canonical_json, write_json, write_text
from ptqflow.artifacts.hashing import HashCache, sha256
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.schemas import DIAGNOSTICS, TOKENS
from ptqflow.artifacts.tables import column, read_metadata, read_table, to_table, versioned, write_rows, write_table
from ptqflow.checkpoints.writer import remove_old
from ptqflow.commands.check import planned_jobs
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.weights import gather_safetensors, open_safetensors, save_safetensors
from ptqflow.system import is_out_of_memory, reading

ROW = {"sequence": 0, "tokens": [1, 2, 3], "source": "s", "rows": ["0"], "offset": 0}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- atomic writes

WRITER = """
import sys
import time
from ptqflow.artifacts.atomic import atomic_path
for i in range(10**9):
    with atomic_path("target") as temporary:
        if sys.argv[1] == "file":
            with temporary.open("w") as file:
                for piece in range(200):
                    file.write(str(i % 10) * 1000)
                    file.flush()
                    time.sleep(0.0002)  # most of the time is spent half-way
        else:
            temporary.mkdir()
            for name in "abc":
                (temporary / name).write_text(str(i % 10) * 50_000)
                time.sleep(0.01)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_killed_at_random_moments_leaves_the_target_whole(tmp_path, kind):
    generator = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, kind], cwd=tmp_path, start_new_session=True, env=environment())
        while not (tmp_path / "target").exists():
            assert process.poll() is None, "the writer failed"
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        target = tmp_path / "target"
        if kind == "file":
            text = target.read_text()
            assert len(text) == 200_000
            assert len(set(text)) == 1
        elif target.exists():  # a folder cannot be exchanged in one step: between two renames it is absent
            assert names(target) == ["a", "b", "c"]
            assert len({(target / name).read_text() for name in "abc"}) == 1
            assert len((target / "a").read_text()) == 50_000
    write_text(tmp_path / "other", "")
    with atomic_path(tmp_path / "target") as temporary:
        temporary.write_text("done") if kind == "file" else temporary.mkdir()
    assert names(tmp_path) == ["other", "target"]  # the next write removes what the killed ones left


def test_temporaries_of_living_processes_and_other_hosts_stay(tmp_path):
    for owner in (f"elsewhere.{os.getpid()}", f"{os.uname().nodename}.1"):
        (tmp_path / f".x.{owner}.tmp").mkdir()
    before = names(tmp_path)
    (tmp_path / f".x.y.{os.uname().nodename}.999999999.tmp").mkdir()  # of a dead process, whatever it was to become
    write_text(tmp_path / "x", "")
    assert names(tmp_path) == sorted([*before, "x"])


def test_an_error_in_the_block_keeps_the_old_target_and_no_temporary(tmp_path):
    write_text(tmp_path / "x", "old")

    def fail_halfway() -> None:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("new")
            (temporary.parent / ".library-temporary").write_text("left beside the output")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_tensors_gathered_bit_by_bit_are_the_file_that_all_at_once_make(tmp_path):
    tensors = {"b": torch.arange(5, dtype=torch.int8), "a": torch.randn(3, 2), "c": torch.zeros(0, 4)}
    tensors["d"] = torch.ones(7).bfloat16()
    save_safetensors(tmp_path / "whole", tensors, {"k": "v"})
    with gather_safetensors(tmp_path / "gathered", {"k": "v"}) as take:
        for name, tensor in tensors.items():
            take({name: tensor})
        assert not (tmp_path / "gathered").exists()
    assert names(tmp_path) == ["gathered", "whole"]
    assert (tmp_path / "gathered").read_bytes() == (tmp_path / "whole").read_bytes()
    assert (tmp_path / "gathered").stat().st_mode == (tmp_path / "whole").stat().st_mode


def test_tensors_gathered_before_an_error_leave_nothing(tmp_path):
    def stop_half_way():
        with gather_safetensors(tmp_path / "gathered", {}) as take:
            take({"x": torch.zeros(1)})
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop_half_way()
    assert names(tmp_path) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


# ---- the disk refuses


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a tiny file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def read_only(tmp_path):
    """A folder that even root cannot write."""
    folder = tmp_path / "read-only"
    folder.mkdir(exist_ok=True)
    for command in (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"a read-only folder cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def configured(tmp_path):
    """A configuration in the folder that `read_only` makes unwritable after it."""
    (tmp_path / "read-only").mkdir()
    (tmp_path / "read-only/config.yaml").write_text("platform: cpu\n")


def test_a_study_in_a_folder_that_cannot_be_written_is_one_sentence_with_the_remedy(configured, read_only):
    with pytest.raises(ConfigError, match=r"read-only cannot be written \(Read-only file system\).*; free space or make"):
        planned_jobs(read_only, "local")


def _parquet(path: Path) -> None:
    schema = pa.schema([column("x", pa.float64(), "noise")])
    write_table(path, pa.table({"x": np.random.default_rng(0).random(100_000)}, schema=schema), schema, {})


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file({"x": np.zeros(100_000)}, temporary)


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "x" * 2**20), _parquet, _safetensors], ids=["text", "parquet", "safetensors"]
)
def test_a_full_disk_leaves_the_old_file_and_names_the_target(tiny_disk, write):
    write_text(tiny_disk / "x", "old")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tiny_disk / "x")
    assert caught.value.filename == str(tiny_disk / "x")
    assert caught.value.errno == 28
    assert names(tiny_disk) == ["x"]
    assert (tiny_disk / "x").read_text() == "old"


def _fetch(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    command = stage_command("fetch", f'{{"path": "{source}"}}', "--output", folder / "m" / "manifest.json")
    return subprocess.run(command, cwd=source.parent, capture_output=True, text=True, env=environment())


def test_a_stage_on_a_full_disk_says_so_and_succeeds_once_there_is_space(tiny_disk, tmp_path):
    source = write_model(tmp_path / "source", kilobytes=128)
    (tiny_disk / "ballast").write_bytes(b"\0" * 150_000)
    done = _fetch(tiny_disk, source)
    assert done.returncode == 1
    assert re.fullmatch(r"ptqflow fetch: No space left on device: .*free space.*\n", done.stderr)
    assert not (tiny_disk / "m/manifest.json").exists()
    (tiny_disk / "ballast").unlink()
    assert _fetch(tiny_disk, source).returncode == 0
    Manifest.read(tiny_disk / "m/manifest.json").verify(tiny_disk / "m")


def test_a_stage_in_an_unwritable_folder_says_so(read_only, tmp_path):
    done = _fetch(read_only, write_model(tmp_path / "source"))
    assert done.returncode == 1
    assert re.fullmatch(r"ptqflow fetch: Read-only file system: .*make the place writable.*\n", done.stderr)


def test_a_stage_whose_output_lies_below_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    done = _fetch(tmp_path / "file", write_model(tmp_path / "source"))
    assert done.returncode == 1
    assert re.fullmatch(r"ptqflow fetch: Not a directory: .*file/m.*\n", done.stderr)


# ---- tables


def test_a_table_reads_back_as_written(tmp_path):
    write_rows(tmp_path / "t.parquet", TOKENS, [ROW], {"seed": 3})
    assert read_table(tmp_path / "t.parquet", TOKENS).to_pylist() == [ROW]
    assert read_table(tmp_path / "t.parquet", TOKENS, ["offset", "sequence"]).column_names == ["offset", "sequence"]
    assert read_metadata(tmp_path / "t.parquet") == {"seed": 3}


def test_equal_rows_are_equal_bytes(tmp_path):
    for name in "ab":
        write_rows(tmp_path / name, TOKENS, [ROW] * 100, {"b": 1, "a": 2})
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"extra": 1}, r"unknown columns \['extra'\]"),
        ({k: v for k, v in ROW.items() if k != "offset"}, r"missing \['offset'\]"),
        (ROW | {"offset": None}, r"missing \['offset'\]"),
        (ROW | {"offset": "four"}, "offset is int64, found 'four'"),
        (ROW | {"sequence": 1.5}, "sequence is int32, found 1.5"),
        (ROW | {"sequence": 0.0}, "sequence is int32, found 0.0"),
        (ROW | {"source": 3}, "does not fit its schema .*source: string"),
        (ROW | {"sequence": 10**30}, "does not fit its schema"),
        (ROW | {"sequence": 2**40}, "does not fit its schema"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row, message):
    with pytest.raises(ArtifactError, match=message):
        to_table(TOKENS, [ROW, row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["offset"]), "columns"),
        (lambda t: t.append_column("more", pa.array([1])), "columns"),
        (lambda t: t.rename_columns(["sequences", *t.column_names[1:]]), "columns"),
        (lambda t: t.select(t.column_names[::-1]), "columns"),
        (lambda t: t.set_column(4, "offset", pa.array([0], pa.int32())), "column offset is int32, expected int64"),
        (lambda t: t.set_column(4, "offset", pa.array([None], pa.int64())), "column offset holds 1 nulls"),
    ],
)
def test_tables_of_another_schema_are_refused_when_written_and_when_read(tmp_path, change, message):
    table = change(pa.Table.from_pylist([ROW], schema=pa.schema([(f.name, f.type) for f in TOKENS])))
    with pytest.raises(ArtifactError, match=message):
        write_table(tmp_path / "t.parquet", table, TOKENS, {})
    assert not (tmp_path / "t.parquet").exists()
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ArtifactError, match=message):
        read_table(tmp_path / "t.parquet", TOKENS)


def test_a_table_of_another_version_is_refused_by_name(tmp_path):
    """Columns may be the same and mean something else: the version says so."""
    path, columns = tmp_path / "t.parquet", [column("count", pa.int64(), "how many")]
    old, new = (versioned("counts", version, columns) for version in (1, 2))
    write_rows(path, old, [{"count": 1}], {})
    assert read_table(path, old).to_pylist() == [{"count": 1}]
    with pytest.raises(ArtifactError, match=r"t\.parquet is of schema counts 1, here counts 2 is read; delete it and run"):
        read_table(path, new, ["count"])
    write_rows(path, pa.schema(columns), [{"count": 1}], {})  # of the time before versions: its columns decide
    assert read_table(path, new).to_pylist() == [{"count": 1}]
    with pytest.raises(ArtifactError, match=r"expected .* delete it and run the stage that makes it"):
        read_table(path, versioned("counts", 2, [*columns, column("more", pa.int64(), "new")]))


def test_every_declared_schema_names_its_version():
    rooms = (schemas, table_schemas, evidence_schemas)
    declared = {name: value for room in rooms for name, value in vars(room).items() if isinstance(value, pa.Schema)}
    assert {"GENERATIONS", "SAMPLES", "ACCURACY", "OVERLAP"} <= declared.keys()
    assert all(value.metadata[b"schema"].decode().split()[0] == name.lower() for name, value in declared.items())


def test_an_unreadable_table_is_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    for read in (lambda: read_table(path, TOKENS), lambda: read_metadata(path)):
        with pytest.raises(ArtifactError, match=r"t\.parquet does not exist"):
            read()
    write_rows(path, TOKENS, [ROW], {})
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * 100):
        path.write_bytes(damaged)
        for read in (lambda: read_table(path, TOKENS), lambda: read_metadata(path)):
            with pytest.raises(ArtifactError, match=r"t\.parquet is not a readable Parquet file"):
                read()


@given(share=st.floats(0.2, 0.95), bit=st.integers(0, 7))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_the_values_of_a_table_is_noticed(tmp_path, share, bit):
    path = tmp_path / "t.parquet"
    write_rows(path, TOKENS, [ROW | {"source": random.Random(0).randbytes(2000).hex()}], {})
    column = pq.read_metadata(path).row_group(0).column(TOKENS.names.index("source"))
    damaged = bytearray(path.read_bytes())
    damaged[column.dictionary_page_offset + int(share * 2000)] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"t\.parquet is not a readable Parquet file"):
        read_table(path, TOKENS)


def test_null_is_allowed_only_where_declared(tmp_path):
    row = dict.fromkeys(DIAGNOSTICS.names) | {"layer": 0, "module": "block", "output_error": 0.0, "output_mse": 0.0}
    write_rows(tmp_path / "d.parquet", DIAGNOSTICS, [row | {"seconds": 1.0, "peak_bytes": 1}], {})
    with pytest.raises(ArtifactError, match=r"missing \['seconds', 'peak_bytes'\]"):
        write_rows(tmp_path / "d.parquet", DIAGNOSTICS, [row], {})


# ---- hashes


@pytest.fixture
def settled(monkeypatch) -> None:
    """Let the cache remember files that were written just now."""
    monkeypatch.setattr(hashing, "_SETTLED_NS", 0)


def large_file(path: Path) -> Path:
    path.write_bytes(b"a" * (2 << 20))
    return path


def test_a_changed_byte_is_noticed_though_size_and_mtime_are_the_old_ones(tmp_path, settled):
    path, cache = large_file(tmp_path / "x"), HashCache(tmp_path / "hashes.json")
    before, stat = cache.sha256(path), path.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert cache.sha256(path) != before
    assert cache.sha256(path) == sha256(path)


def test_a_file_changed_just_now_is_not_remembered(tmp_path):
    """Two changes within one tick of the clock leave the same times behind."""
    path, cache = large_file(tmp_path / "x"), HashCache(tmp_path / "hashes.json")
    cache.sha256(path)
    assert not (tmp_path / "hashes.json").exists()


def test_a_large_file_is_read_once(tmp_path, settled, monkeypatch):
    path, cache = large_file(tmp_path / "x"), HashCache(tmp_path / "hashes.json")
    value = cache.sha256(path)
    monkeypatch.setattr(hashing, "sha256", lambda path: pytest.fail("read again"))
    assert HashCache(tmp_path / "hashes.json").sha256(path) == value


@pytest.mark.parametrize("damage", ["", "{", "[1]", "null", '{"PATH": 3}', '{"PATH": [1]}'])
def test_a_damaged_cache_costs_time_only(tmp_path, settled, damage):
    path, store = large_file(tmp_path / "x"), tmp_path / "hashes.json"
    store.write_text(damage.replace("PATH", str(path)))
    assert HashCache(store).sha256(path) == sha256(path)


def test_an_unwritable_cache_costs_time_only(tmp_path, settled):
    (tmp_path / "file").write_text("")
    path = large_file(tmp_path / "x")
    assert HashCache(tmp_path / "file" / "hashes.json").sha256(path) == sha256(path)


# ---- manifests


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "small").write_text("content")
    large_file(folder / "large")
    Manifest.of_folder(folder, ["small", "large"], {"made": "here"}).write(folder)
    return folder


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"truncated\?"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "changed since its manifest"),
        (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    ],
)
def test_manifests_refuse_missing_truncated_and_changed_files(folder, name, damage, message):
    manifest = Manifest.read(folder / "manifest.json")
    manifest.verify(folder)
    damage(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} .*{message}"):
        manifest.verify(folder)
    manifest.verify(folder, {"small", "large"} - {name})


def test_manifests_refuse_names_they_do_not_list(folder):
    with pytest.raises(ArtifactError, match="other is not listed"):
        Manifest.read(folder / "manifest.json").verify(folder, ["other"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {}, "extra": 1}', '{"files": {"x": {"bytes": 1}}}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    with pytest.raises(ArtifactError, match="does not exist"):
        Manifest.read(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not a manifest"):
        Manifest.read(tmp_path / "manifest.json")


def test_equal_folders_have_equal_manifests(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    Manifest.of_folder(tmp_path / "copy", ["large", "small"], {"made": "here"}).write(tmp_path / "copy")
    assert (tmp_path / "copy/manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_json_is_written_with_sorted_keys_and_a_final_newline(tmp_path):
    write_json(tmp_path / "x", {"b": 1, "a": "é"})
    assert (tmp_path / "x").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'


# ---- hidden states


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 20),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hidden_states_come_back_to_the_bit_and_as_many_as_are_enough(tmp_path, sequences, tokens, width, dtype, enough):
    generator = torch.Generator().manual_seed(sequences + 10 * tokens)
    states = torch.randn(sequences, tokens, width + 1, generator=generator).to(dtype)[:, :, :width]
    states[0, 0, 0] = -0.0
    write_activations(tmp_path / "states.parquet", states, {"layers": [0, 1]})
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    found = read_activations(tmp_path / "states.parquet")
    assert found.dtype == dtype
    assert torch.equal(found.view(bits), states.contiguous().view(bits))
    assert torch.equal(read_activations(tmp_path / "states.parquet", enough), states[: -(-enough // tokens)])
    assert read_metadata(tmp_path / "states.parquet")["layers"] == [0, 1]


# ---- what the system refuses is no fault of the file


def readers(folder: Path) -> dict[str, tuple[Path, object]]:
    """Every kind of file we make, with what reads it."""
    write_rows(folder / "rows.parquet", TOKENS, [ROW], {"settings": 1})
    save_safetensors(folder / "weights.safetensors", {"a": torch.ones(3)}, {})
    write_activations(folder / "states.parquet", torch.ones(1, 2, 3), {})
    write_json(folder / "manifest.json", {"files": {}})
    return {
        "table": (folder / "rows.parquet", lambda path: read_table(path, TOKENS)),
        "metadata": (folder / "rows.parquet", read_metadata),
        "safetensors": (folder / "weights.safetensors", open_safetensors),
        "activations": (folder / "states.parquet", read_activations),
        "manifest": (folder / "manifest.json", Manifest.read),
    }


@pytest.mark.parametrize("kind", ["table", "metadata", "safetensors", "activations", "manifest"])
def test_a_damaged_file_is_to_be_deleted_and_one_that_may_not_be_read_is_not(tmp_path, kind):
    path, read = readers(tmp_path)[kind]
    read(path)
    whole = path.read_bytes()
    path.write_bytes(b"\x00garbage" + whole[:10])
    with pytest.raises(ArtifactError, match="delete it"):
        read(path)
    path.write_bytes(whole)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything, so that a child without rights does it
        with ForbiddenTo(path) as error:
            read(path)
        assert error.seen == errno.EACCES
    else:
        with pytest.raises(PermissionError):
            read(path)


class ForbiddenTo:
    """Run the block in a child of another user; `seen` is the number of the system's error that ended it."""

    def __init__(self, path: Path) -> None:
        for folder in (path.parent, *path.parent.parents):
            if folder.owner() == "root" and folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o055)
        self.seen: int | None = None

    def __enter__(self) -> "ForbiddenTo":
        os.seteuid(65534)
        return self

    def __exit__(self, kind, error, trace) -> bool:
        os.seteuid(0)
        self.seen = getattr(error, "errno", None)
        return isinstance(error, PermissionError)


SAID_OF_MEMORY = [
    MemoryError(),
    pa.ArrowMemoryError("malloc of size 64 failed"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    OSError("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", SAID_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_short_memory_is_never_called_a_damaged_file(error):
    with pytest.raises((MemoryError, OSError)) as raised, reading("x", "a readable file", "delete it"):
        raise error
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("error", [ValueError("no header"), OSError("Couldn't deserialize thrift"), KeyError("hidden")])
def test_what_is_said_of_content_is_damage(error):
    said = reading("x", "readable", "delete it")
    with pytest.raises(ArtifactError, match=r"^x is not readable \(.*\); delete it$"), said:
        raise error


def test_an_export_removes_what_an_earlier_or_a_killed_one_left(tmp_path):
    """A folder whose name ends like a weight file's would else be taken for one."""
    stale = tmp_path / f".model.safetensors.{os.uname().nodename}.999999999.tmp"
    elsewhere = tmp_path / ".model.safetensors.elsewhere.999999999.tmp"
    for folder in (stale, elsewhere):
        (folder / "model.safetensors").mkdir(parents=True)
    (tmp_path / "additional_chat_templates").mkdir()
    for name in ("model-00001-of-00002.safetensors", "chat_template.jinja", "additional_chat_templates/tool.jinja"):
        (tmp_path / name).write_bytes(b"of an earlier export")
    (tmp_path / "notes.md").write_bytes(b"of someone else")
    remove_old(tmp_path, keep={"model.safetensors"})
    assert names(tmp_path) == [elsewhere.name, "additional_chat_templates", "notes.md"]
    assert not names(tmp_path / "additional_chat_templates")
