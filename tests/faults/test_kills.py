"""Fifty kill -9 at random moments of builds: what comes out is what would have come out. `make test-faults`."""

import json
import os
import random
import shutil
import subprocess
import time

import pytest
from checkout import Checkout, copy_checkout

KILLS = int(os.environ.get("MAKELM_FAULTS", "0"))  # how many
if not KILLS:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

STEPS = 3000  # about half of a build's time
KEYS = {
    "steps": STEPS,
    "checkpoint_every": 50,
    "validate_every": 1000,
    "log_every": 100,
    "batch_size": 2,
    "schedule.kind": "constant",
}
LONG = ("--config", f"set={' '.join(f'run.tiny.train.{key}={value}' for key, value in KEYS.items())}")
# a word of the victim's command line: the trainer, Snakemake, what make calls, all there are
VICTIMS = ("train_model.py", "snakemake", "run_workflow.py", "scripts/")
WITHIN = (0.5, 12.0)  # seconds after a start


def contents(checkout: Checkout) -> dict[str, dict]:
    """Returns the content of every manifest: all that a build is, without what was measured."""
    found = {}
    for path in sorted(checkout.results.glob("**/*.json")):
        if "checkpoints" not in path.parts and "content" in (read := json.loads(path.read_text())):
            found[path.relative_to(checkout.results).as_posix()] = read["content"]
    return found


def disturb(checkout: Checkout, rng: random.Random) -> tuple[list[str], bool, str]:
    """Starts make, kills something in it, then make itself. Returns (what was hit, whether it got through, output)."""
    process = checkout.start_make(*LONG)
    moment = time.monotonic() + rng.uniform(*WITHIN)
    while time.monotonic() < moment and process.poll() is None:
        time.sleep(0.02)
    word, hit = rng.choice(VICTIMS), []
    for victim in checkout.working(word):
        victim.kill()
        hit = [word]
    try:
        said = "".join(process.communicate(timeout=rng.uniform(0, 4)))
    except subprocess.TimeoutExpired as late:  # it was not hit, or those that it started still hold its output
        process.kill()
        process.wait()
        said = (late.stdout or b"").decode()
    return hit, process.returncode == 0, said


def test_kills_at_random_moments_change_nothing(tmp_path, tell):
    undisturbed, disturbed = copy_checkout(tmp_path / "undisturbed"), copy_checkout(tmp_path / "disturbed")
    done = undisturbed.make(*LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, rng, killed, builds, starts = contents(undisturbed), random.Random(0), [], 0, 0
    while len(killed) < KILLS:
        hit, through, said = disturb(disturbed, rng)
        killed += hit
        starts += said.count("; from step ")
        if through:
            assert contents(disturbed) == expected
            builds += 1
            shutil.rmtree(disturbed.results)
    done = disturbed.make(*LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(disturbed) == expected
    hits = ", ".join(f"{killed.count(word)} x {word}" for word in VICTIMS)
    what = f"kill -9 {len(killed)} times ({hits}) in {builds + 1} builds"
    tell("faults", what, f"all manifests are those of an undisturbed build; training began {starts} times")
    metrics = (disturbed.results / "train_model/tiny/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert not list(disturbed.results.rglob(".partial*"))
    assert disturbed.working("scripts/") == []
