"""What a site says is checked before anything is submitted, and Slurm's words are read as they are meant."""

import pytest
from ptqflow import site as sites
from ptqflow.devices import visible
from ptqflow.errors import ConfigError, PtqflowError
from ptqflow.slurm import counts, indices, limits, minutes

JOB = """JobId=7 JobName=x
   AllocTRES=cpu=1,mem=512M,node=1,gres/gpu=1,gres/npu=3
   JOB_GRES=gpu:a100:1,npu:910b:3
     Nodes=vm CPU_IDs=0 Mem=512 GRES=gpu:a100:1(IDX:5),npu:910b:3(IDX:0-1,4)
   TresPerNode=gres:npu:3
"""


@pytest.mark.parametrize(("gres", "found"), [("npu", "0 1 4"), ("npu:910b", "0 1 4"), ("gpu", "5"), ("mlu", "")])
def test_devices_of_a_job_are_those_of_its_gres(gres, found):
    assert indices(JOB, gres) == found.split()


@pytest.mark.parametrize(
    ("platform", "gres", "variables", "told"),
    [
        ("gpu", "gpu", {"CUDA_VISIBLE_DEVICES": "0", "SLURM_STEP_GPUS": "5"}, "0"),  # counted within the job's cgroup
        ("gpu", "gpu", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "5"),  # of the shell that submitted
        ("ascend", "npu:910b", {"ASCEND_RT_VISIBLE_DEVICES": "7"}, "0,1,4"),
        ("ascend", "gpu:a100", {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "5"}, "5"),  # NPUs that a site calls gpu
        ("ascend", None, {}, None),
    ],
)
def test_what_slurm_tells_a_job_of_its_devices_stays(monkeypatch, platform, gres, variables, told):
    monkeypatch.setattr("ptqflow.slurm.said", lambda *command: JOB)
    variables = variables | {"SLURM_JOB_ID": "7"}
    sites.Slurm(gres=gres).tell_devices(platform, variables)
    assert variables.get(visible.VARIABLES[platform]) == told
    assert visible.given_by_slurm(platform, variables) == (told is not None)


@pytest.mark.parametrize(
    ("text", "found"), [("infinite", None), ("30:00", 30), ("1:30:00", 90), ("2-12:00:00", 3600), ("1-00:30:00", 1470)]
)
def test_time_limits_in_minutes(text, found):
    assert minutes(text) == found


def test_limits_are_those_of_the_largest_node(monkeypatch):
    rows = (
        "cpu|2|1000|infinite|(null)|cpu*\nnpu|8|500|1-00:00:00|npu:910b:4(S:0)|npu\nnpu|4|900|1-00:00:00|npu:910b:8,gpu:2|npu\n"
    )
    monkeypatch.setattr("ptqflow.slurm.said", lambda *command: rows)
    assert limits(None).partition == "cpu"
    found = limits("npu")
    assert (found.cpus, found.mem_mb, found.minutes) == (8, 900, 1440)
    assert found.gres == {"npu": 8, "npu:910b": 8, "gpu": 2}
    assert limits("absent") is None


@pytest.mark.parametrize(
    ("gres", "found"),
    [
        ("gpu:a100:2(S:0-1),gpu:v100:4", {"gpu": 6, "gpu:a100": 2, "gpu:v100": 4}),
        ("bandwidth:lustre:no_consume:4G,npu:8", {"npu": 8}),
        ("gpu:2,craynetwork:4,", {"gpu": 2, "craynetwork": 4}),
        ("(null)", {}),
    ],
)
def test_what_a_node_has_of_each_gres(gres, found):
    assert counts(gres) == found


def test_a_slurm_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexec sleep 9")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("ptqflow.slurm.PATIENCE", 0.1)
    with pytest.raises(PtqflowError, match=r"^Slurm did not answer `sinfo --noheader` within 0\.1 s; try again"):
        sites.Slurm().limits()


def test_a_node_has_as_many_devices_as_a_model_is_shared_by(monkeypatch):
    monkeypatch.setattr("ptqflow.slurm.said", lambda *command: "npu|8|500|infinite|npu:910b:4(S:0)|npu*\n")
    asked = sites.Slurm(gres="npu:910b")
    assert asked.limits(4)[True].gres["npu:910b"] == 4
    with pytest.raises(ConfigError, match=r"^tensor_parallel 8: no node of partition npu has more than 4 npu:910b; use at most"):
        asked.limits(8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slurm: {partitoin: cpu}", ["slurm.partitoin", "did you mean 'partition'"]),
        ("slurm: {gres: 'npu:910b:1'}", ["slurm.gres: the NAME or NAME:TYPE of one device, without a count", "npu:910b:1"]),
        ("slurm: {partition: 'cpu; rm'}", ["slurm.partition"]),
        ("image: nowhere.sif", ["image", "nowhere.sif", "`make containers IMAGE=core`, gpu or ascend"]),
        ("binds: [relative/folder]", ["binds", "an absolute path", "relative/folder"]),
        ("environment: {A: 1}", ["environment.A: text belongs here; put it in quotes (found 1)"]),
        ("environment: {1A: b}", ["environment.1A: the name of a variable"]),
        ("- slurm", ["key: value"]),
    ],
)
def test_a_wrong_site_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        sites.load(str(path))
    assert all(word in str(refused.value) for word in [str(path), *words]), str(refused.value)
    assert "\n" not in str(refused.value)


def test_scratch_is_made_on_the_node_and_shown_to_its_container(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    site, variables = sites.Site(scratch=f"{tmp_path}/$SLURM_JOB_ID", binds=["/data:/data:ro"]), {}
    site.enter(variables, on_node=False)
    assert variables == {"APPTAINER_BIND": "/data:/data:ro"}
    site.enter(variables, on_node=True)
    assert variables["TMPDIR"] == f"{tmp_path}/12"
    assert variables["APPTAINER_BIND"] == f"/data:/data:ro,{tmp_path}/12"
    assert (tmp_path / "12").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"scratch: .*cannot be made"):
        sites.Site(scratch=f"{tmp_path}/file/x").enter(variables, on_node=True)


def test_a_container_that_lets_no_environment_in_is_told_what_jobs_need(tmp_path, monkeypatch):
    for name, runtime in (("singularity", "SINGULARITY"), ("apptainer", "APPTAINER")):
        (tmp_path / name).write_text("#!/bin/sh")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        site = sites.Site(image="x.sif", scratch=str(tmp_path), environment={"HF_HOME": "/hub"})
        variables = {"PTQFLOW_CODE": "/code", "ASCEND_RT_VISIBLE_DEVICES": "1", "SECRET": "x"}
        site.enter(variables, on_node=True)
        site.carry(variables)
        told = {key.partition("ENV_")[2]: value for key, value in variables.items() if key.startswith(f"{runtime}ENV_")}
        cache = {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": f"{tmp_path}/cache", "HF_HOME": "/hub"}
        assert told == {"PTQFLOW_CODE": "/code", "ASCEND_RT_VISIBLE_DEVICES": "1"} | cache
        assert variables[f"{runtime}_BIND"].split(",")[0] == str(tmp_path)
        assert f"{runtime}_NV" not in variables
        site.enter(variables, on_node=False, platform="gpu")
        assert variables[f"{runtime}_NV"] == "1"
    variables = {"PTQFLOW_CODE": "/code"}
    sites.Site().carry(variables)
    assert variables == {"PTQFLOW_CODE": "/code"}


def test_the_example_is_a_site_but_for_its_image():
    with pytest.raises(ConfigError, match=r"image: ptqflow-ascend\.sif does not exist"):
        sites.load(sites.EXAMPLE)


def test_a_scratch_that_is_full_is_named_before_a_job_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(sites, "LEAST_FREE", 2**80)
    with pytest.raises(ConfigError, match=r"scratch: .* is full on"):
        sites.Site(scratch=str(tmp_path / "scratch")).enter({}, on_node=True)
