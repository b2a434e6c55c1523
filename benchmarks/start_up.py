"""How long a user waits: from `snakemake` to the first optimizer step, cold and warm, and for new samples alone.

    python benchmarks/start_up.py [--rounds 5]

The default run, with all made that training reads. Cold, the cache of compiled programs is empty; warm, it has those of
the same training, begun before. New samples: sample_model with another seed, of a run that was trained for a few steps.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from recording import Table, record
from turns import forget_programs

ROOT = Path(__file__).resolve().parent.parent
RUN = "stdlib"
SHORT = f"run.{RUN}.train.steps=20 run.{RUN}.train.checkpoint_every=20"


def words(target: str, *changes: str) -> list[str]:
    """Returns the command that makes one target."""
    command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    return [*command, "--workflow-profile", "none", "--config", f"set={' '.join(changes)}"]


def make(folder: Path, target: str, *changes: str) -> float:
    """Returns the seconds that a target took."""
    started = time.monotonic()
    command = words(target, *changes)
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout)
    return time.monotonic() - started


def first_step(folder: Path) -> float:
    """Returns the seconds until training has done a step; then it is stopped and what it has made removed."""
    out = folder / f"results/train_model/{RUN}"
    shutil.rmtree(out, ignore_errors=True)
    started = time.monotonic()
    # metrics are on disk with the line that is written every log_every steps
    changes = [f"run.{RUN}.train.steps=1000", f"run.{RUN}.train.log_every=1"]
    command = words(f"results/train_model/{RUN}/manifest.json", *changes)
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    while not any(path.stat().st_size for path in out.glob("checkpoints/*/metrics.jsonl")):
        time.sleep(0.02)
        assert process.poll() is None, f"training ended: {process.returncode}"
    seconds = time.monotonic() - started
    os.killpg(process.pid, signal.SIGTERM)  # Snakemake alone would wait for the last step
    process.communicate()  # training has the pipe too: until it has saved and ended
    return seconds


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {"cold": [], "warm": [], "new samples": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, f"results/train_model/{RUN}/manifest.json", SHORT)
        make(folder, f"results/sample_model/{RUN}/manifest.json", SHORT)
        for number in range(options.rounds):
            seed = f"run.{RUN}.sample.seed={number + 2}"  # 1 is the default
            found["new samples"].append(make(folder, f"results/sample_model/{RUN}/manifest.json", SHORT, seed))
        for _ in range(options.rounds):
            forget_programs(folder)
            found["cold"].append(first_step(folder))
            found["warm"].append(first_step(folder))
    table = Table("from `snakemake` to", "seconds")
    table.add(["the first step, cold", f"{median(found['cold']):.1f}"])
    table.add(["the first step, warm", f"**{median(found['warm']):.1f}**"])
    table.add(["new samples and nothing else", f"**{median(found['new samples']):.1f}**"])
    record("start_up", found, table)


if __name__ == "__main__":
    main()
