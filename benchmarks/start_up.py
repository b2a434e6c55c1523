"""How long a user waits: from `snakemake` to the first optimizer step, cold and warm, and for new samples alone.

    python benchmarks/start_up.py [--rounds 5]

The default run, with all made that training reads. Cold, the cache of compiled programs is empty; warm, the same
training was begun before. New samples: sample_model with another seed, of a run that was trained for a few steps.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from recording import Table, record

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
    subprocess.run(words(target, *changes), cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started


def first_step(folder: Path) -> float:
    """Returns the seconds until training has done a step; then it is stopped and what it has made removed."""
    out = folder / f"results/train_model/{RUN}"
    shutil.rmtree(out, ignore_errors=True)
    started = time.monotonic()
    command = words(f"results/train_model/{RUN}/manifest.json", f"run.{RUN}.train.steps=1000")
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not any(path.stat().st_size for path in out.glob("checkpoints/*/metrics.jsonl")):
        time.sleep(0.02)
        assert process.poll() is None, f"training ended: {process.returncode}"
    seconds = time.monotonic() - started
    process.send_signal(signal.SIGTERM)  # it waits for training to save and end
    process.wait()
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
            seed = f"run.{RUN}.sample.seed={number + 1}"
            found["new samples"].append(make(folder, f"results/sample_model/{RUN}/manifest.json", SHORT, seed))
        for _ in range(options.rounds):
            shutil.rmtree(folder / "results/compiled", ignore_errors=True)
            found["cold"].append(first_step(folder))
            found["warm"].append(first_step(folder))
    table = Table("from `snakemake` to", "seconds")
    table.add(["the first step, cold", f"{median(found['cold']):.1f}"])
    table.add(["the first step, warm", f"**{median(found['warm']):.1f}**"])
    table.add(["new samples and nothing else", f"**{median(found['new samples']):.1f}**"])
    record("start_up", found, table)


if __name__ == "__main__":
    main()
