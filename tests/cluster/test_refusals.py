"""What a person must change: one line, and no job that tries in vain for long.

`make test-cluster` runs these.
"""

import json
import os
import re
import subprocess

import pytest
import slurm
from checkout import ENVIRONMENT, copy_checkout
from submitting import SAID, end, processor_seconds, start

if "MAKELM_CLUSTER" not in os.environ:
    pytest.skip("starts a Slurm of its own: make test-cluster", allow_module_level=True)

ONE = "run.tiny.hardware.devices=1"
WRONG = {
    f"{ONE} cluster.cpu.partition=plane": "cluster.cpu.partition: Slurm has no plane; did you mean 'plain'?",
    f"{ONE} cluster.devices_per_node=3": "cluster.devices_per_node: 3, but nodes have at most 2 GPUs",
    f"{ONE} cluster.nodes=3": "cluster.nodes: 3, but 2 have 2 GPUs",
    "run.tiny.hardware.devices=8": "run.tiny.hardware.devices: 8 are more than the cluster's 4"
    " (cluster.nodes: 2, cluster.devices_per_node: 2)",
    "run.tiny.hardware.devices=4 run.tiny.mesh.tensor=3": "run.tiny.mesh: data 1 x fsdp -1 x tensor 3 does not fit"
    " 4 devices; change mesh or the devices",
    "run.tiny.cores=2": "run.tiny.hardware.devices: local says nothing on a cluster; state how many devices its mesh"
    " lies on",
}


@pytest.fixture(scope="session")
def empty(cluster, tmp_path_factory):
    """A checkout with nothing built."""
    return copy_checkout(tmp_path_factory.mktemp("empty"))


def said(copy, *words, site="site.yaml"):
    """Returns the exit code of Snakemake and what it said."""
    process = start(copy.folder, *words, site=site)
    try:
        return process.wait(300), (copy.folder / SAID).read_text()
    finally:
        end(process)


@pytest.mark.parametrize("change", WRONG)
def test_what_cannot_be_is_one_line_before_anything_is_submitted(empty, change):
    before = slurm.newest()
    code, text = said(empty, "--config", f"set={change}")
    assert code == 2 and text.strip().splitlines()[-1] == WRONG[change], text
    assert slurm.newest() == before


def test_a_site_that_is_missing_is_named(empty):
    code, text = said(empty, site="workflow/presets/tiny.yaml")
    assert code == 2 and "name workflow/profiles/slurm/site.yaml" in text.splitlines()[-1], text


def test_a_stage_that_ended_with_2_is_not_tried_again_for_long(empty):
    """A plan that cannot fit takes its time to find that out; the retries of Snakemake know it at once."""
    target, change = "results/plan_run/tiny/manifest.json", f"{ONE} run.tiny.hardware.memory_gb=1e-4"
    code, text = said(empty, target, "--retries", "1", "--config", f"set={change}")
    assert code == 1, text
    assert [state for _, state, _ in slurm.jobs("plan_run")][-2:] == ["FAILED"] * 2
    left = json.loads((empty.folder / "logs/plan_run/tiny.error.json").read_text())
    assert left["exit_code"] == 2 and left["line"].startswith("the run needs") and left["inputs"]
    logs = sorted(empty.folder.glob("logs/slurm/rule_plan_run/tiny/*.log"), key=lambda path: int(path.stem))
    assert all(left["line"] in path.read_text() for path in logs) and str(logs[-1]) in text

    words = (empty.folder / "logs/plan_run/tiny.log").read_text().splitlines()[0]
    assert "--attempt 2" in words
    since = processor_seconds()
    again = subprocess.run(words, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert processor_seconds() - since < 5 and again.returncode == 2 and left["line"] in again.stderr
    # with another input it is tried anew
    words = re.sub(r'"memory_gb":0.0001', '"memory_gb":1000', words).replace(" --stop-with-parent", "")
    again = subprocess.run(words, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
