"""A file that holds something else than its job wrote is found whatever its time, and one that holds the same never."""

import json
import os
import shutil
import zipfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from ptqflow.restored import KEPT, REMEMBERED, Records, adopt

LONG = "results/" + "deep/" * 60 + "qparams"  # its record lies in a folder of its own: names of files end at 255 characters


class Folder:
    """Outputs with the records that Snakemake leaves of them; a job starts as the one before ends."""

    clock = 1_700_000_000.25

    def job(self, output, text, reads=()):
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        started, self.clock = self.clock, self.clock + 10
        os.utime(path, (self.clock, self.clock))
        checksums = {name: "sha256:" + sha256(Path(name).read_bytes()).hexdigest() for name in reads}
        record = {"rule": "r", "input": list(reads), "starttime": started, "endtime": self.clock, "input_checksums": checksums}
        name = urlsafe_b64encode(output.encode()).decode()
        parts = [name[i : i + 200] for i in range(0, len(name), 200)]
        file = Path(".snakemake/metadata", *("@" + part for part in parts[:-1]), parts[-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, integers made of it, a table made of these."""
    monkeypatch.chdir(tmp_path)
    Path(".ptqflow").mkdir()
    made = Folder()
    made.job("model", "m")
    made.job(LONG, "integers", ["model"])
    made.job("table", "t", [LONG])
    Records().remember()
    return made


def put_back(path, text, time):
    Path(path).write_text(text)
    os.utime(path, (time, time))


@pytest.mark.parametrize("time", [1_600_000_000, 1_800_000_000])
def test_other_content_is_found_whatever_its_time_and_the_same_is_not(folder, time):
    for path, text in (("model", "m"), (LONG, "integers"), ("table", "t")):
        put_back(path, text, time)
        assert Records().others() == []
        put_back(path, "other", time)
        assert Records().others() == [path]
        put_back(path, text, time)


def test_a_mark_is_snakemakes_own_and_goes_with_its_reason(folder):
    put_back(LONG, "old", 1)
    assert Records().mark() == [LONG]
    marks = [path for path in Path(".snakemake/incomplete").rglob("*") if path.is_file()]
    records = [path.relative_to(".snakemake/metadata") for path in Path(".snakemake/metadata").rglob("*") if path.is_file()]
    assert [mark.relative_to(".snakemake/incomplete") for mark in marks] == [r for r in records if len(r.parts) > 1]
    assert json.loads(marks[0].read_text())["external_jobid"] is None
    marks[0].with_name("another").write_text('{"external_jobid": "7"}')
    put_back(LONG, "integers", 1)
    assert Records().mark() == []
    assert [path.name for path in Path(".snakemake/incomplete").rglob("*") if path.is_file()] == ["another"]


@pytest.fixture
def checkpoint(folder):
    """A folder's manifest that lists two files."""
    files = {"model.safetensors": "weights", "additional_chat_templates/a.jinja": "template"}
    for name, text in files.items():
        path = Path("results/c", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    entries = {name: {"bytes": len(text), "sha256": "0" * 64} for name, text in files.items()}
    folder.job("results/c/manifest.json", json.dumps({"files": entries}), [LONG])
    return Path("results/c")


@pytest.mark.parametrize("name", ["model.safetensors", "additional_chat_templates/a.jinja"])
def test_a_folder_that_lacks_a_file_of_its_manifest_is_made_again(checkpoint, name):
    assert Records().others() == []
    (checkpoint / name).write_text("cut")
    assert Records().mark() == ["results/c/manifest.json"]
    (checkpoint / name).unlink()
    assert Records().mark() == ["results/c/manifest.json"]
    (checkpoint / "manifest.json").unlink()
    assert Records().mark() == [], "Snakemake sees by itself that this is missing"


def test_files_of_a_manifest_may_be_links_and_are_not_hashed(checkpoint, tmp_path):
    weights = checkpoint / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")

    def refuse(path):
        raise AssertionError(f"{path} was hashed")

    assert Records(sha256=refuse).others() == []
    (tmp_path / "blob").unlink()
    assert Records(sha256=refuse).others() == ["results/c/manifest.json"]


def test_a_manifest_that_is_none_is_left_to_who_reads_it(checkpoint):
    time = (checkpoint / "manifest.json").stat().st_mtime
    for text in ("{", "[]", '{"files": 1}', '{"name": "an app"}'):
        put_back(checkpoint / "manifest.json", text, time)
        assert Records().others() == []


def test_what_was_made_anew_and_not_yet_read_is_no_backup(folder):
    """A run was cut off after a job, and the folder copied without times: earlier readers say nothing of the new file."""
    folder.job(LONG, "new integers", ["model"])
    os.utime(LONG, (1_900_000_000, 1_900_000_000))
    assert Records().others() == []


def test_nothing_is_read_while_all_is_as_the_jobs_left_it(folder):
    def refuse(path):
        raise AssertionError(f"{path} was hashed")

    assert Records(sha256=refuse).others() == []


def test_a_record_that_is_being_written_and_a_lost_memory_are_passed_over(folder):
    REMEMBERED.write_text("{")
    Path(".snakemake/metadata/bW9kZWw=").write_text('{"rule": ')
    for path in ("model", "table"):
        put_back(path, "other", 1)
    assert Records().others() == []


@pytest.mark.parametrize("name", [".nfs0000a1", "_-_-", "abcde", "notes.txt"])
def test_a_file_that_is_no_record_is_passed_over(folder, name):
    Path(".snakemake/metadata", name).write_text("{}")
    put_back("table", "other", 1_600_000_000)
    assert Records().others() == ["table"]
    Records().keep()


def test_results_that_are_copied_alone_bring_their_records(folder, tmp_path, monkeypatch):
    """Into another checkout, without times; and only names that a record can have are taken."""
    folder.job("results/t", "t", [LONG])
    Records().keep()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".ptqflow").mkdir(parents=True)
    shutil.copytree("results", elsewhere / "results", copy_function=shutil.copyfile)
    with zipfile.ZipFile(elsewhere / KEPT, "a") as kept:
        kept.writestr("../../escaped", "{}")
    records = {name: text for name, (_, text) in Records()._texts.items()}
    monkeypatch.chdir(elsewhere)
    adopt()
    assert {name: text for name, (_, text) in Records()._texts.items()} == records
    assert not (elsewhere / "escaped").exists()
    assert Records().others() == []
    put_back(LONG, "other", 1)
    assert Records().others() == [LONG]


def test_a_backup_with_its_times_brings_the_records_of_its_files(folder, tmp_path):
    """What was made before comes back: the records say again how that was made. Files as they were left keep theirs."""
    folder.job("results/t", "old", [LONG])
    folder.job("results/same", "same", [LONG])
    Records().keep()
    shutil.copytree("results", tmp_path / "backup")
    before = Records()._texts["results/t"]
    folder.job("results/t", "new", ["model"])
    Records().keep()
    assert Records()._texts["results/t"] != before
    shutil.copytree(tmp_path / "backup", "results", dirs_exist_ok=True)
    adopt()
    assert Records()._texts["results/t"] == before
    assert Records().others() == []


def test_records_that_this_folder_left_are_not_read_again(folder, monkeypatch):
    folder.job("results/t", "t")
    Records().keep()
    monkeypatch.setattr(zipfile, "is_zipfile", None)
    adopt()
