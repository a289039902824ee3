"""Remembered digests are those of the code as it is, whatever the store says."""

import json

from ptqflow import digest
from ptqflow.planned_code import Digests


def test_digests_are_remembered_of_this_code_alone(tmp_path, monkeypatch):
    root, store = tmp_path / "package", tmp_path / "kept/digests.json"
    root.mkdir()
    store.parent.mkdir()
    (root / "__init__.py").write_text("")
    (root / "stage.py").write_text("def run():\n    return 1\n")
    first = Digests(store, root)
    assert first.of("ptqflow.stage") == digest.code_digest("ptqflow.stage", root=root)
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr(digest, "code_digest", None)  # nothing is worked out again
        assert Digests(store, root).of("ptqflow.stage") == first.of("ptqflow.stage")
    (root / "stage.py").write_text("def run():\n    return 2\n")
    assert Digests(store, root).of("ptqflow.stage") != first.of("ptqflow.stage")
    for torn in ("", "[]", "{}", json.dumps({"package": first.package})):
        store.write_text(torn)
        assert Digests(store, root).of("ptqflow.stage") == digest.code_digest("ptqflow.stage", root=root)


def test_a_folder_that_is_not_a_studys_gets_no_store(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    digests = Digests(tmp_path / "nowhere/digests.json", tmp_path / "package")
    digests.of("ptqflow")
    digests.save()
    assert not (tmp_path / "nowhere").exists()
