"""What clusters do to a training: its job goes on as it must, and the weights are those of one left in peace.

`make test-cluster` runs these; with --capture=no they say how long each took.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import slurm
from checkout import ENVIRONMENT, TINY, Checkout, copy_checkout
from submitting import SAID, end, start, submit

if "MAKELM_CLUSTER" not in os.environ:
    pytest.skip("starts a Slurm of its own: make test-cluster", allow_module_level=True)

LONG = (
    "run.tiny.hardware.devices=2 run.tiny.mesh.fsdp=2 run.tiny.cores=1 cluster.devices_per_node=1"
    " run.tiny.train.optimizer.kind=adamw run.tiny.model.n_layers=1 run.tiny.train.steps=320"
)
TARGET = "results/train_model/tiny/manifest.json"


class Training:
    """A training on two nodes that is watched through its files."""

    def __init__(self, folder):
        self.copy, self.folder = Checkout(folder), folder
        self.out = folder / "results/train_model/tiny"
        self.log = folder / "logs/train_model/tiny.log"
        self.since = slurm.newest()

    def start(self, *words):
        """Starts Snakemake in the background."""
        self.snakemake = start(self.folder, TARGET, "--retries", "20", "--config", f"set={LONG} {' '.join(words)}")

    def job(self):
        """Returns the number of its last job."""
        return slurm.jobs("train_model")[-1][0]

    def saved(self):
        """Returns the last step that is saved."""
        return max((int(path.name) for path in self.out.glob("checkpoints/*/*") if path.name.isdigit()), default=0)

    def begun(self):
        """Returns the step that the last start went on from, once it has said so."""
        text = self.log.read_text() if self.log.exists() else ""
        return int(text.split("; from step ")[1].split(",")[0]) if "; from step " in text else None

    def after(self, step):
        """Waits until a later step than this is saved."""
        slurm.wait_until(lambda: self.saved() > step or self.snakemake.poll() is not None, 120)
        assert self.snakemake.poll() is None, self.said()

    def said(self):
        """Returns what Snakemake said."""
        return (self.folder / SAID).read_text()

    def processes(self):
        """Returns its processes that compute."""
        found = []
        for each in self.copy.working("train_model.py"):
            with suppress(psutil.Error):  # it ends meanwhile
                found += [each] if each.name().startswith("python") else []
        return found

    def weights(self):
        """Returns what was trained, byte by byte."""
        return [(self.out / name).read_bytes() for name in ("weights/model.safetensors", "metrics.jsonl")]


@pytest.fixture(scope="session")
def prepared(cluster, tmp_path_factory):
    """A checkout with the data of the tiny preset, made here."""
    copy = copy_checkout(tmp_path_factory.mktemp("prepared") / "copy")
    shards = [f"results/encode_shard/tiny/tiny_bpe/{number:05d}.json" for number in (0, 1)]
    made = copy.make(*shards)
    assert made.returncode == 0, made.stdout + made.stderr
    return copy


@pytest.fixture(scope="session")
def undisturbed(prepared, tmp_path_factory):
    """The same training, to which nothing happened."""
    folder = tmp_path_factory.mktemp("peace") / "copy"
    shutil.copytree(prepared.folder, folder)
    submit(folder, TARGET, "--config", f"set={LONG}")
    return Training(folder)


@pytest.fixture
def training(prepared, tmp_path):
    """A training that is yet to begin. Of what it started nothing is left at the end."""
    shutil.copytree(prepared.folder, tmp_path / "copy")
    made = Training(tmp_path / "copy")
    yield made
    end(made.snakemake)


def cancel(training, cluster):
    subprocess.run(["scancel", str(training.job())], check=True)


def requeue(training, cluster):
    subprocess.run(["scontrol", "requeue", str(training.job())], check=True)


def preempt(training, cluster):
    words = ["--parsable", "--partition=first", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap"]
    subprocess.run(["sbatch", *words, "sleep 1"], check=True, stdout=subprocess.DEVNULL)


def kill_rank(training, cluster):
    max(training.processes(), key=lambda each: each.pid).kill()


def kill_batch(training, cluster):
    """Kills the Snakemake that the job itself is, below the batch step."""
    killed = 0
    for each in psutil.process_iter():
        with suppress(psutil.Error):  # others end meanwhile
            if "slurm_script" in " ".join(each.cmdline()[:2]):
                each.kill()
                killed += 1
    assert killed


def warn(training, cluster):
    """Tells a training what --signal tells it before its time is over."""
    subprocess.run(["scancel", "--signal=USR1", str(training.job())], check=True)


def kill_node(training, cluster):
    """Kills a node; it comes back once Slurm has given it up and nothing of the training runs on the other."""
    cluster.kill_node("n2")
    slurm.wait_until(lambda: "down" in slurm.node_states() and not training.processes(), 90)
    cluster.start_node("n2")


DISTURBANCES = (cancel, warn, requeue, preempt, kill_rank, kill_batch, kill_node)


def test_whatever_happens_to_its_jobs_and_to_snakemake_it_goes_on(training, undisturbed, cluster):
    training.start()
    last = 0
    for disturb in DISTURBANCES:
        training.after(last)
        before, job, since = training.begun(), training.job(), time.monotonic()
        disturb(training, cluster)
        slurm.wait_until(lambda before=before: (training.begun() or before) > before, 150)
        last = training.begun()
        print(f"{disturb.__name__}: {time.monotonic() - since:.0f} s until training went on, from step {last};", end="")
        print(f" job {job}, then {training.job()}")
        # whose node died Slurm starts again, if it was still at work when that was noticed
        same = training.job() == job
        assert disturb is kill_node or same == (disturb is requeue), (disturb, slurm.jobs("train_model"))
    training.after(last)
    start_snakemake_again(training)
    assert training.snakemake.wait(300) == 0, training.said()
    assert training.weights() == undisturbed.weights()
    slurm.wait_until(lambda: not slurm.states(), 60)
    assert not training.processes()


def start_snakemake_again(training):
    """Kills Snakemake, whose job goes on, and starts another."""
    training.snakemake.kill()
    training.snakemake.wait()
    assert training.processes(), "the job goes on"
    unlock = [sys.executable, "-m", "snakemake", "--unlock", "--configfile", TINY]
    subprocess.run(unlock, cwd=training.folder, env=ENVIRONMENT, check=True, capture_output=True)
    training.start()


def test_a_job_whose_time_is_over_goes_on_as_another(training, undisturbed):
    """Its time is cut in the middle of its training, which stands still until Slurm has noticed."""
    training.start()
    training.after(0)
    stopped = training.processes()
    for each in stopped:
        each.suspend()
    subprocess.run(["scontrol", "update", f"JobId={training.job()}", "TimeLimit=1"], check=True)
    slurm.wait_until(lambda: slurm.states().get(training.job()) != "RUNNING", 150)
    for each in stopped:
        with suppress(psutil.Error):  # Slurm goes on with them itself, to end them
            each.resume()
    assert training.snakemake.wait(600) == 0, training.said()
    ends = [state for _, state, _ in slurm.jobs("train_model", training.since)]
    assert ends[0] in ("TIMEOUT", "FAILED") and ends[-1] == "COMPLETED" and len(ends) > 1, ends
    assert training.begun() > 0
    assert training.weights() == undisturbed.weights()
