"""The whole pipeline on Slurm, and training over several nodes and processes: what one machine makes.

`make test-cluster` runs these.
"""

import json
import os
import shutil
import subprocess
from contextlib import suppress

import numpy as np
import psutil
import pytest
import slurm
from checkout import ENVIRONMENT, TINY, Checkout, copy_checkout
from slurm import runs_on, wait_until
from submitting import end, processor_seconds, start, submit
from training_stage import rows

from makelm import stages

if "MAKELM_CLUSTER" not in os.environ:
    pytest.skip("starts a Slurm of its own: make test-cluster", allow_module_level=True)

# the first runs where Snakemake does; the preset has no weights and is asked no tasks
NO_JOBS = ("write_report", "download_weights", "download_task", "evaluate_task")
ONE = "run.tiny.hardware.devices=1 run.tiny.cores=2"
TWO = "run.tiny.hardware.devices=2 run.tiny.mesh.fsdp=2 run.tiny.cores=1"
SCORES = "results/evaluate_model/tiny/scores.json"
# how the two devices of a training lie on nodes -> where its processes are
LAYOUTS = {
    "cluster.devices_per_node=1": {"n1", "n2"},  # a process on each of two nodes
    "cluster.process_per=device": {"n1"},  # two on one
}


def contents(folder):
    """Returns what every manifest says that is no matter of when and where."""
    paths = sorted((folder / "results").rglob("*.json"))
    paths = [path for path in paths if "checkpoints" not in path.parts]
    read = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}
    return {name: text["content"] for name, text in read.items() if "content" in text}


@pytest.fixture(scope="session")
def submitted(cluster, tmp_path_factory):
    """A checkout in which the tiny preset was built by Slurm, with the jobs that did it."""
    made, before = copy_checkout(tmp_path_factory.mktemp("submitted")), slurm.newest()
    submit(made.folder, "--config", f"set={ONE}")
    made.jobs = {stage: slurm.jobs(stage, before) for stage in stages.STAGES}
    return made


def test_all_stages_run_as_jobs(submitted):
    for stage in stages.STAGES:
        seen = [state for _, state, _ in submitted.jobs[stage]]
        assert set(seen) == (set() if stage in NO_JOBS else {"COMPLETED"}), (stage, seen)
        own = [*submitted.folder.glob(f"logs/{stage}.log"), *submitted.folder.glob(f"logs/{stage}/**/*.log")]
        assert len(own) == (len(seen) or stage == "write_report"), (stage, own)
        assert all(path.read_text().startswith("cd ") for path in own)
        assert len(list(submitted.folder.glob(f"logs/slurm/rule_{stage}/*/*.log"))) == len(seen)
    assert (submitted.results / "write_report/report.html").exists()


def test_what_comes_out_is_what_one_machine_makes(submitted, checkout):
    made = checkout.make("--config", f"set={ONE}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert contents(submitted.folder) == contents(checkout.folder)


def test_who_starts_the_jobs_is_no_reason_to_run_them_again(submitted):
    for site in ((), ("site.yaml",)):
        assert submitted.planned("--config", f"set={ONE}", more=site) == []


def test_one_job_can_tokenize_many_shards(submitted, tmp_path):
    shutil.copytree(submitted.folder, tmp_path / "copy")
    shards = [f"results/encode_shard/tiny/tiny_bpe/{number:05d}.json" for number in (0, 1)]
    made = [(tmp_path / "copy" / name).read_bytes() for name in shards]
    for name in shards:
        (tmp_path / "copy" / name).unlink()
    before = slurm.newest()
    group = ("--groups", "encode_shard=shards", "--group-components", "shards=2")
    submit(tmp_path / "copy", *shards, *group, "--config", f"set={ONE}")
    assert slurm.newest() == before + 1
    contents = [json.loads(text)["content"] for text in made]
    assert [json.loads((tmp_path / "copy" / name).read_text())["content"] for name in shards] == contents


def test_thousands_of_shards_stay_plannable(submitted):
    """To plan a few jobs takes 3 seconds of an undisturbed processor here, so this is 10 for those of 2,000 shards."""

    def plan(shards):
        before = processor_seconds()
        command = ("-m", "snakemake", "-n", "-q", "--cores", "2", "--config", f"set={ONE} corpus.tiny.shards={shards}")
        planned = submitted.python(*command, "--configfile", TINY)
        assert planned.returncode == 0, planned.stdout + planned.stderr
        return processor_seconds() - before

    # whatever else a machine does can only add to either: the least of each is what they take
    many, few = (min(times) for times in zip(*[(plan(2000), plan(2)) for _ in range(2)], strict=True))
    assert many < 10 / 3 * few, f"{many:.1f} s of processor for 2,000 shards, {few:.1f} for 2"


def train_anew(folder, built, *words, start):
    """Trains in a copy of what was built, which has data and no training; returns the training's folder."""
    shutil.copytree(built.folder, folder, ignore=shutil.ignore_patterns("train_model", "logs"))
    start(Checkout(folder), "results/train_model/tiny/manifest.json", *words)
    return folder / "results/train_model/tiny"


@pytest.fixture(scope="session")
def two_devices(submitted, tmp_path_factory):
    """The training in one process with two devices."""

    def start(copy, *words):
        environment = ENVIRONMENT | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        done = subprocess.run(
            copy.make_command(*words), cwd=copy.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return train_anew(tmp_path_factory.mktemp("two") / "copy", submitted, "--config", f"set={TWO}", start=start)


def compare(out, other):
    """Checks that two trainings have the same losses."""
    for key in ("tokens", "loss"):
        np.testing.assert_allclose([row[key] for row in rows(out)], [row[key] for row in rows(other)], rtol=1e-4)
    np.testing.assert_allclose(rows(out)[-1]["validation_loss"], rows(other)[-1]["validation_loss"], rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_processes_train_as_one_does(submitted, two_devices, tmp_path, layout):
    before = slurm.newest()
    out = train_anew(
        tmp_path / "copy",
        submitted,
        "--config",
        f"set={TWO} {layout}",
        start=lambda copy, *words: submit(copy.folder, *words),
    )
    (job,) = slurm.jobs("train_model", before)
    assert slurm.expanded(job[2]) == LAYOUTS[layout]
    compare(out, two_devices)
    log = (tmp_path / "copy/logs/train_model/tiny.log").read_text()
    assert "--launcher" in log and "on 2 x cpu" in log
    assert (tmp_path / "copy/logs/train_model/tiny.1.log").exists()


def gpus_of(program):
    """Returns the GPUs that Slurm leaves to a program, as it tells CUDA; None where it does not run."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"scripts/{program}.py" in process.cmdline()[1:2] and runs_on(process):
                return process.environ().get("CUDA_VISIBLE_DEVICES")
    return None


def test_scores_have_all_devices_of_a_node_that_their_mesh_takes(submitted, tmp_path):
    shutil.copytree(submitted.folder, tmp_path / "copy")
    (tmp_path / "copy/results/evaluate_model/tiny/scores.json").unlink()
    process, seen = start(tmp_path / "copy", SCORES, "--config", f"set={TWO}"), set()
    try:
        wait_until(lambda: seen.add(gpus_of("evaluate_model")) or process.poll() is not None, 120)
    finally:
        end(process)
    assert process.returncode == 0 and seen - {None} == {"0,1"}
    assert len(slurm.expanded(slurm.jobs("evaluate_model")[-1][2])) == 1


def test_the_generic_profile_trains_the_same(submitted, two_devices, tmp_path):
    out = train_anew(
        tmp_path / "copy",
        submitted,
        "--config",
        f"set={TWO} cluster.devices_per_node=1",
        start=lambda copy, *words: submit(copy.folder, *words, profile="generic"),
    )
    np.testing.assert_allclose(
        [row["loss"] for row in rows(out)], [row["loss"] for row in rows(two_devices)], rtol=1e-4
    )
    assert slurm.expanded(slurm.jobs("train_model")[-1][2]) == {"n1", "n2"}
