"""Stage fetch: what is taken, what is refused, and that faults of network, process and disk heal by running again."""

import json
import re
import shutil
import subprocess
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fake_hub import FakeHub
from interrupt import assert_survives_kills, contents, environment, kill_when, random_moments, run, stage_command
from model_folder import write_model
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.models import INDEX, source_files
from ptqflow.cli import main
from ptqflow.errors import ArtifactError, ConfigError, PtqflowError
from ptqflow.stages import fetch

LARGE = 24 * 1024  # kilobytes: more than twice what huggingface_hub writes at once


@pytest.fixture
def source(tmp_path) -> Path:
    return write_model(tmp_path / "source")


def fetch_to(folder: Path, part: str | None = None, **settings: str) -> Manifest:
    fetch.run(fetch.Settings(**settings), Namespace(output=folder / "manifest.json", part=part))
    return Manifest.read(folder / "manifest.json")


@pytest.fixture
def hub_client(monkeypatch):
    """Point huggingface_hub, already imported or not, at a fake hub."""
    import huggingface_hub.constants as constants

    def use(hub: FakeHub) -> FakeHub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.endpoint)
        return hub

    return use


# ---- a local folder


def test_only_files_that_a_model_needs_are_taken(source):
    for name in ("modeling_x.py", "pytorch_model.bin", "optimizer.pt", "x.pickle", "flax_model.msgpack", "other.safetensors"):
        (source / name).write_text("x")
    (source / "LICENSE").write_text("Apache-2.0")
    assert source_files(source) == [
        *("LICENSE", "README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]


def test_shards_and_their_index_are_taken(tmp_path):
    names = source_files(write_model(tmp_path / "m", shards=3))
    assert [n for n in names if "safetensors" in n] == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), INDEX]


def _lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")


def _only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _auto_map(folder):
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}))


def _truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "holds neither model.safetensors"),
        (_only_pickle, "pytorch_model.bin; only .safetensors is read: convert"),
        (_auto_map, "remote code .auto_map: .*AutoModelForCausalLM.*never trusted"),
        (_truncated, r"has \d+ bytes, its header says \d+ .truncated"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "not a whole safetensors file"),
        (_lfs_pointer, "git lfs pull"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(source, damage, message):
    damage(source)
    with pytest.raises(PtqflowError, match=message):
        source_files(source)


def test_an_index_that_promises_too_much_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["absent"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="lacks absent"):
        source_files(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lists model-00002-of-00002\.safetensors, which the model lacks"):
        source_files(folder)


def test_an_index_that_leaves_a_tensor_out_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", shards=2)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]  # engines read it all the same, and no checkpoint would have it
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=r"00001-of-00002.safetensors holds model.norm.weight, which .* does not list"):
        source_files(folder)


def test_fetch_twice_gives_identical_bytes_wherever_the_folder_lies(source, tmp_path):
    manifest = fetch_to(tmp_path / "a", path=str(source))
    manifest.verify(tmp_path / "a")
    assert manifest.origin == {"source": {"path": "source"}, "license": "apache-2.0"}
    moved = tmp_path / "elsewhere" / "source"
    moved.parent.mkdir()
    source.rename(moved)
    fetch_to(tmp_path / "b", path=str(moved))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_partly_filled_folder_is_healed_and_whole_files_are_kept(source, tmp_path):
    target = tmp_path / "m"
    fetch_to(target, path=str(source))
    before, kept = contents(target), (target / "tokenizer.json").stat().st_ino
    (target / "manifest.json").unlink()
    (target / "config.json").unlink()
    weights = target / "model.safetensors"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    fetch_to(target, path=str(source))
    assert contents(target) == before
    assert (target / "tokenizer.json").stat().st_ino == kept


def test_files_of_an_earlier_source_do_not_stay(source, tmp_path):
    """transformers prefers model.safetensors to an index: a stale one would be loaded instead of the shards."""
    fetch_to(tmp_path / "m", path=str(source))
    fetch_to(tmp_path / "m", path=str(write_model(tmp_path / "sharded", shards=2)))
    assert not (tmp_path / "m" / "model.safetensors").exists()


def test_a_folder_with_files_of_others_is_refused(source, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="did not put there"):
        fetch_to(tmp_path / "home", path=str(source))
    assert (tmp_path / "home" / "README.md").read_text() == "mine"


def test_killed_local_fetch_heals(tmp_path):
    source = write_model(tmp_path / "source", shards=3, kilobytes=20_000)
    command = stage_command("fetch", json.dumps({"path": str(source)}), "--output", "m/manifest.json")
    seconds = run(command, tmp_path)
    expected = contents(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    moments = random_moments(4, seconds, seed=0)
    assert_survives_kills(command, tmp_path, tmp_path / "m", expected, moments, last="manifest.json")


# ---- the hub


def test_hub_model_equals_its_local_copy(source, tmp_path, hub_client):
    (source / "modeling_x.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_text("pickle")
    with FakeHub.of_folder(source).serving() as hub:
        hub_client(hub)
        manifest = fetch_to(tmp_path / "hub", repo=hub.repo, revision=hub.revision)
        assert manifest.files == fetch_to(tmp_path / "local", path=str(source)).files
        assert manifest.origin == {"source": {"repo": hub.repo, "revision": hub.revision}, "license": "apache-2.0"}
        assert not any("pytorch" in path or ".py" in path for path, _ in hub.requests)


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_what_is_computed_with_and_what_travels_are_two_parts_of_a_model(source, tmp_path, hub_client, capsys, place):
    for name in ("LICENSE", "Notice.txt", "picture.png"):
        (source / name).write_text("x")
    with FakeHub.of_folder(source).serving() as hub:
        hub_client(hub)
        settings = {"path": str(source)} if place == "folder" else {"repo": hub.repo, "revision": hub.revision}
        whole = fetch_to(tmp_path / "whole", **settings)
        model, notices = (fetch_to(tmp_path / part, part, **settings) for part in ("models", "notices"))
    assert set(notices.files) == {"LICENSE", "Notice.txt", "README.md"}
    assert model.files == {name: entry for name, entry in whole.files.items() if name not in notices.files}
    assert model.files | notices.files == whole.files
    for part, manifest in (("models", model), ("notices", notices)):
        manifest.verify(tmp_path / part)
        assert {path.name for path in (tmp_path / part).iterdir()} == {".fetch", "manifest.json", *manifest.files}
    assert (model.origin, notices.origin["license"]) == ({"source": whole.origin["source"]}, "apache-2.0")
    assert capsys.readouterr().err.count("left behind, since nothing reads it: 'picture.png'") == 2  # not of the notices


def test_a_model_without_card_and_licence_has_no_notices(source, tmp_path):
    (source / "README.md").unlink()
    assert fetch_to(tmp_path / "notices", "notices", path=str(source)).files == {}


def test_a_connection_cut_in_a_large_file_goes_on_where_it_ended(tmp_path, hub_client):
    source = write_model(tmp_path / "source", shards=2, kilobytes=LARGE)
    with FakeHub.of_folder(source, cuts=[15 << 20]).serving() as hub:
        hub_client(hub)
        fetch_to(tmp_path / "m", repo=hub.repo, revision=hub.revision).verify(tmp_path / "m")
        assert len(hub.ranges) == 2  # at the hub, and where it redirects to


def test_killed_download_resumes_with_a_range_request(tmp_path):
    source = write_model(tmp_path / "source", kilobytes=LARGE)
    with FakeHub.of_folder(source, seconds_per_block=0.01).serving() as hub:
        settings = json.dumps({"repo": hub.repo, "revision": hub.revision})
        command = stage_command("fetch", settings, "--output", "m/manifest.json")
        env = environment(HF_ENDPOINT=hub.endpoint)

        def partial() -> int:
            return max((path.stat().st_size for path in tmp_path.glob("m/.fetch/*.partial")), default=0)

        assert kill_when(lambda: partial() >= 10 << 20, command, tmp_path, env)
        here = partial()
        hub.seconds_per_block = 0
        hub.requests.clear()
        run(command, tmp_path, env)
        assert hub.ranges == [f"bytes={here}-"] * 2
        Manifest.read(tmp_path / "m/manifest.json").verify(tmp_path / "m")
        assert partial() == 0
        hub.requests.clear()
        (tmp_path / "m/manifest.json").unlink()
        run(command, tmp_path, env | {"HF_HUB_OFFLINE": "1"})  # a commit never changes: nothing is asked again
        assert hub.requests == []


def test_a_download_killed_at_random_moments_heals(tmp_path):
    source = write_model(tmp_path / "source", shards=2, kilobytes=LARGE // 2)
    with FakeHub.of_folder(source, seconds_per_block=0.005).serving() as hub:
        settings = json.dumps({"repo": hub.repo, "revision": hub.revision})
        command = stage_command("fetch", settings, "--output", "m/manifest.json")
        env = environment(HF_ENDPOINT=hub.endpoint)
        seconds = run(command, tmp_path, env)
        expected = contents(tmp_path / "m", ignore=[".fetch"])
        shutil.rmtree(tmp_path / "m")
        moments = random_moments(3, seconds, seed=1)
        assert assert_survives_kills(
            command, tmp_path, tmp_path / "m", expected, moments, last="manifest.json", ignore=[".fetch"], env=env
        )


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_wrong_byte_is_refused_and_running_again_heals(source, tmp_path, hub_client, name):
    with FakeHub.of_folder(source, corrupt={name}).serving() as hub:
        hub_client(hub)
        with pytest.raises(ArtifactError, match=f"{name} arrived with other content"):
            fetch_to(tmp_path / "m", repo=hub.repo, revision=hub.revision)
        assert not (tmp_path / "m/manifest.json").exists()
        assert not (tmp_path / "m" / name).exists()
        fetch_to(tmp_path / "m", repo=hub.repo, revision=hub.revision).verify(tmp_path / "m")


def test_remote_code_is_refused_before_the_weights_are_downloaded(source, tmp_path, hub_client):
    _auto_map(source)
    with FakeHub.of_folder(source).serving() as hub:
        hub_client(hub)
        with pytest.raises(ConfigError, match="never trusted"):
            fetch_to(tmp_path / "m", repo=hub.repo, revision=hub.revision)
        assert not any("safetensors" in path for path, _ in hub.requests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "org/other"}, "no such repository; correct repo"),
        ({"revision": "f" * 40}, "does not know this revision"),
        ({"gated": True}, "gated; accept its terms .* HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_said_with_its_remedy(source, tmp_path, hub_client, change, message):
    with FakeHub.of_folder(source, gated=change.get("gated", False)).serving() as hub:
        hub_client(hub)
        with pytest.raises(ConfigError, match=message):
            fetch_to(tmp_path / "m", repo=change.get("repo", hub.repo), revision=change.get("revision", hub.revision))


@pytest.mark.parametrize(
    ("env", "message"), [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set; unset it"), ({}, "cannot be reached")]
)
def test_without_a_hub_one_sentence_says_what_to_do(tmp_path, env, message):
    settings = json.dumps({"repo": "org/model", "revision": "0" * 40})
    env = environment(HF_ENDPOINT="http://127.0.0.1:9", **env)
    command = stage_command("fetch", settings, "--output", "m/manifest.json")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "use path" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path": "a", "repo": "b", "revision": "0" * 40},
        {"repo": "org/m"},
        {"repo": "org/m", "revision": "main"},
        {"revision": "0" * 40},
    ],
)
def test_a_source_is_one_folder_or_one_pinned_commit(settings, tmp_path, capsys):
    assert main(["fetch", "--settings", json.dumps(settings), "--output", str(tmp_path / "manifest.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "commit" in error or "exactly one" in error or "go together" in error


def test_a_full_disk_is_known_before_the_transfer(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match=r"bytes are needed and 0 are free"):
        fetch_to(tmp_path / "m", path=str(source))


# ---- a hub that is none


@pytest.mark.parametrize(
    "answer", [[], None, {"siblings": None}, {"siblings": [1]}, {"siblings": {"a": 1}}, {"siblings": [{"size": 1}]}]
)
def test_an_answer_that_lists_no_files_is_one_sentence(source, hub_client, tmp_path, monkeypatch, answer):
    hub = FakeHub.of_folder(source)
    plain = hub.listing()
    monkeypatch.setattr(hub, "listing", lambda: {**plain, **answer} if isinstance(answer, dict) else answer)
    with hub.serving(), pytest.raises(ConfigError, match=r"the hub answers what is no list of files .* check HF_ENDPOINT"):
        fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_no_password_of_the_hubs_address_is_printed_and_html_is_one_sentence(source, hub_client, tmp_path, status):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    hub = FakeHub.of_folder(source)
    hub.endpoint = f"http://user:PASSWORD@127.0.0.1:{server.server_port}"
    with pytest.raises(ConfigError, match=r"the hub (answers|cannot)") as refused:
        fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)
    server.shutdown()
    server.server_close()
    assert "PASSWORD" not in str(refused.value)


@pytest.mark.parametrize("entry", [{"lfs": "x"}, {"size": 10**30}, {"size": "3"}, {"size": -1}, {"blobId": "../"}, {"blobId": 7}])
def test_a_size_or_hash_that_is_none_is_one_sentence(source, hub_client, tmp_path, monkeypatch, entry):
    hub = FakeHub.of_folder(source)
    listing = hub.listing()
    listing["siblings"][0] |= entry
    monkeypatch.setattr(hub, "listing", lambda: listing)
    with hub.serving(), pytest.raises(ConfigError, match=r"the hub states no size and hash of .* check HF_ENDPOINT"):
        fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)


def test_a_listing_without_end_is_one_sentence(source, hub_client, tmp_path, monkeypatch):
    from ptqflow.artifacts import hub as client

    monkeypatch.setattr(client, "_LISTING_BYTES", 1 << 20)
    hub = FakeHub.of_folder(source)
    listing = hub.listing() | {"description": "x" * (2 << 20)}
    monkeypatch.setattr(hub, "listing", lambda: listing)
    with hub.serving(), pytest.raises(ConfigError, match=r"the hub answers what is no list of files"):
        fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)


def test_hub_files_that_are_left_out_are_named(source, hub_client, tmp_path, capsys):
    hub = FakeHub.of_folder(source)
    hub.files |= {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", ".gitattributes": b"x", "a\nb": b"x"}
    with hub.serving():
        fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)
    assert r"left behind, since nothing reads it: 'a\nb', 'onnx', 'pytorch_model.bin'" in capsys.readouterr().err


@pytest.mark.parametrize("config", [{"model_type": "bert"}, {"quantization_config": {}}, {"num_hidden_layers": "x"}])
def test_a_hub_model_that_is_refused_is_not_downloaded(tmp_path, hub_client, config):
    with FakeHub.of_folder(write_model(tmp_path / "source", **config)).serving() as hub:
        with pytest.raises(ConfigError):
            fetch_to(tmp_path / "m", repo=hub_client(hub).repo, revision=hub.revision)
        assert not any("safetensors" in path for path, _ in hub.requests)
