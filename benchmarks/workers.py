"""Quantize of one recipe by 1, 2 and 4 workers: the real Snakemake on a random model of 8 blocks, a chunk each.

All blocks in one job, beside a job for each, is what a job costs; a run that has nothing to do is what Snakemake costs.

python benchmarks/workers.py        writes results/bench/workers.parquet and the figure docs/images/workers.svg
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import altair as alt
import pyarrow as pa
import yaml
from peer_models import MIDDLE, random
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.tables import column, write_rows

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "gptq-w4a16"
RUNS = ((1, 1), (0, 1), (MIDDLE.layers, 1), (MIDDLE.layers, 2), (MIDDLE.layers, 4))  # jobs in all, workers
SCHEMA = pa.schema(
    [
        column("what", pa.string(), "what was quantized"),
        column("workers", pa.int32(), "jobs at once"),
        column("chunks", pa.int32(), "jobs in all"),
        column("cores", pa.int32(), "cores of the machine"),
        column("seconds", pa.float64(), "wall time of Snakemake, from its start to its end", unit="s"),
    ]
)


def study(folder: Path, chunks: int) -> None:
    """A study of one recipe on the random model of 111M parameters."""
    traces = {"source": {"path": str(ROOT / "resources/calibration/traces.jsonl")}, "format": "chat"}
    config = {
        "models": {"random": {"source": {"path": "made/model"}, "chunks": chunks}},
        "calibrations": {"traces": traces | {"samples": 32, "sequence_length": 256}},
        "calibration": "traces",
        "recipes": {"second-order": {"preset": RECIPE}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def run(folder: Path, workers: int, until: str) -> float:
    """Wall seconds of Snakemake and its jobs."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "workflow/profiles/local"), "--configfile", str(folder / "config.yaml")]
    command += ["--config", "platform=cpu", "--cores", str(workers), "--until", until]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return time.perf_counter() - start


def chart(rows: list[dict[str, object]]) -> alt.LayerChart:
    """Speed-up against workers, beside as many times as fast, up to the number of cores."""
    rows = [row for row in rows if row["chunks"] == MIDDLE.layers]
    first, cores = float(rows[0]["seconds"]), int(rows[0]["cores"])  # type: ignore[call-overload]
    found = [{"workers": r["workers"], "speed-up": first / float(r["seconds"])} for r in rows]  # type: ignore[arg-type]
    ideal = [{"workers": n, "speed-up": min(n, cores)} for n in range(1, 5)]
    x = alt.X("workers:Q", axis=alt.Axis(values=[1, 2, 3, 4]), title="jobs at once")
    y = alt.Y("speed-up:Q", title="times as fast as one job at a time")
    dashed = alt.Chart(alt.Data(values=ideal)).mark_line(strokeDash=[4, 4], color="gray").encode(x, y)
    measured = alt.Chart(alt.Data(values=found)).mark_line(point=True).encode(x, y)
    title = f"{MIDDLE.layers} chunks; dashed: what {cores} cores allow"
    return (dashed + measured).properties(width=320, height=240, title=title)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/workers.parquet")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/images/workers.svg")
    args = parser.parse_args()
    os.environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random(folder / "made/model")
        what = f"{RECIPE} of {MIDDLE.layers} blocks (111M parameters), 32 x 256 tokens, one thread per job"
        for chunks, workers in RUNS:
            if chunks:
                study(folder, chunks)
                run(folder, 2, "collect")
                shutil.rmtree(folder / "results/cpu/quantized", ignore_errors=True)
            seconds = run(folder, workers, "quantize")
            print(f"{chunks} chunks, {workers} workers: {seconds:.1f} s", file=sys.stderr)
            counts = {"workers": workers, "chunks": chunks, "cores": os.cpu_count()}
            rows.append({"what": what, **counts, "seconds": seconds})
    write_rows(args.output, SCHEMA, rows, provenance("bench", {}, ""))
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    chart(rows).save(args.figure)


if __name__ == "__main__":
    main()
