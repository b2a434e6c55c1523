"""What a cluster's scheduler is asked for, and what cannot be asked; the place that srun gives a process."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from makelm import cluster, configfile, processes
from makelm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
SITE = yaml.safe_load((ROOT / "workflow/profiles/slurm/site.yaml").read_text())


def settings(**changes):
    """Returns the default run at the site of site.yaml; names have __ in place of dots."""
    words = " ".join(f"{name.replace('__', '.')}={value}" for name, value in changes.items())
    return configfile.load(configfile.merge(DEFAULT, SITE) | {"set": words})


def asked(stage="train_model", cores=4, attempt=1, **changes):
    found = cluster.request(settings(**changes), stage, "stdlib", cores, attempt)
    return {name: value for name, value in found.items() if value not in (None, "")}


def test_nothing_is_asked_for_where_there_is_no_cluster():
    plain = configfile.load(DEFAULT)
    assert cluster.request(plain, "train_model", "stdlib", 2, 1) == {"launch": "exec", "further": ""}
    assert cluster.keys(plain) == ("launch", "further")
    cluster.check(plain)


def test_sixteen_devices_are_two_nodes_of_eight():
    found = asked(run__stdlib__hardware__devices=16)
    assert (found["nodes"], found["gpu"], found["tasks"], found["cpus_per_task"]) == (2, 16, 2, 4)
    assert found["launch"] == "exec srun -n2 -N2 -c4 -K1" and found["tasks_per_gpu"] == 0
    assert found["slurm_extra"] == "--signal=USR1@120"


def test_a_process_for_each_device():
    found = asked(run__stdlib__hardware__devices=16, cluster__process_per="device")
    assert (found["nodes"], found["tasks"], found["launch"]) == (2, 16, "exec srun -n16 -N2 -c4 -K1")
    assert found["further"] == "--launcher slurm-device"


def test_a_single_process_has_all_of_its_cores():
    found = asked(run__stdlib__hardware__devices=8, cores=5)
    assert (found["nodes"], found["tasks"], found["cpus_per_task"]) == (1, 2, 3)  # two halves, for the plugin
    assert found["launch"] == "exec srun -n1 -N1 -c5 -K1"


def test_stages_of_one_process_hear_the_end_of_their_job():
    found = asked("sample_model", run__stdlib__hardware__devices=1, cluster__gpus="a100")
    assert found["launch"] == "exec srun --overlap -n1 -c4"
    assert (found["nodes"], found["gpu"], found["gpu_model"], found["runtime"]) == (1, 1, "a100", 1440)
    assert "mpi" not in found
    assert "gpu" not in asked("encode_shard", run__stdlib__hardware__devices=16)
    assert "gpu" not in asked(run__stdlib__hardware__devices=16, cluster__gpus="null")


@pytest.mark.parametrize(
    ("devices", "mesh", "gpus"),
    [
        (16, {}, 8),
        (12, {}, 4),
        (16, {"tensor": 4}, 8),
        (16, {"fsdp": 1, "tensor": 16}, 8),
        (4, {"data": 4, "fsdp": 1}, 4),
    ],
)
def test_samples_and_scores_take_what_one_node_has_of_the_mesh(devices, mesh, gpus):
    changes = {f"run__stdlib__mesh__{axis}": size for axis, size in mesh.items()}
    for stage in ("sample_model", "evaluate_model", "evaluate_task"):
        found = asked(stage, run__stdlib__hardware__devices=devices, **changes)
        assert (found["nodes"], found["gpu"]) == (1, gpus)


def test_a_later_attempt_is_told_so():
    found = asked(run__stdlib__hardware__devices=8, attempt=3)
    assert found["further"] == "--launcher slurm-node --attempt 3"
    assert asked("encode_shard", attempt=2)["further"] == "--attempt 2"


@pytest.mark.parametrize(
    ("changes", "line"),
    {
        "local": ({}, "hardware.devices: local says nothing on a cluster"),
        "mesh": (
            {"run__stdlib__hardware__devices": 6, "run__stdlib__mesh__data": 4},
            r"^run\.stdlib\.mesh: data 4 x fsdp -1 x tensor 1 does not fit 6 devices",
        ),
        "more": ({"run__stdlib__hardware__devices": 24}, "24 are more than the cluster's 16"),
        "uneven": ({"run__stdlib__hardware__devices": 9}, "9 do not divide over 2 nodes of 8"),
    }.values(),
    ids=["local", "mesh", "more", "uneven"],
)
def test_what_cannot_be_on_the_cluster_is_one_line(changes, line):
    with pytest.raises(UserError, match=line):
        cluster.check(settings(**changes))


def test_a_site_is_checked_like_all_keys():
    with pytest.raises(UserError, match="cluster: unknown key 'node'; did you mean 'nodes'"):
        settings(cluster__node=2)
    with pytest.raises(UserError, match="warn_seconds must be less than"):
        settings(cluster__accelerator__minutes=2)


@pytest.mark.parametrize(
    ("nodes", "first"),
    {"n1": "n1", "n[1-2]": "n1", "gpu[03,05-09],x1": "gpu03", "b,a": "b", "r[0-1]n[7-9]-ib": "r0n7-ib"}.items(),
)
def test_the_first_node_is_where_the_others_come_to(nodes, first):
    given = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "20007", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
    place = processes.slurm_place(given | {"SLURM_LOCALID": "1"}, per_device=True)
    assert place == processes.Place(f"{first}:10007", 4, 3, (1,))
    assert processes.slurm_place(given | {"SLURM_LOCALID": "1"}, per_device=False).devices is None


def test_a_process_that_srun_did_not_start_says_so():
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set"):
        processes.slurm_place({}, per_device=False)


SINFO = "plain*|40|128000|(null)\ngpu|2|512000+|gpu:a100:8(S:0-1)\ngpu|1|256000|gpu:t4:4\n"


@pytest.mark.parametrize(
    ("changes", "line"),
    {
        "fits": ({}, None),
        "typo": ({"accelerator__partition": "gpus"}, "^cluster.accelerator.partition: .* did you mean 'gpu'"),
        "none": ({"cpu__partition": "x"}, "^cluster.cpu.partition: Slurm has no x; there are: gpu, plain$"),
        "gpus": ({"devices_per_node": 9}, "^cluster.devices_per_node: 9, but nodes have at most 8 GPUs$"),
        "kind": ({"gpus": "t4"}, "^cluster.devices_per_node: 8, but nodes have at most 4 t4 GPUs$"),
        "nodes": ({"nodes": 3}, "^cluster.nodes: 3, but 2 have 8 GPUs$"),
        "memory": ({"cpu__memory_gb": 129}, "^cluster.cpu.memory_gb: 129, but nodes of default have 128$"),
    }.values(),
    ids=["fits", "typo", "none", "gpus", "kind", "nodes", "memory"],
)
def test_what_the_site_does_not_have_is_one_line(changes, line):
    changes = {"accelerator__partition": "gpu"} | changes
    found = settings(**{f"cluster__{name}": value for name, value in changes.items()}).cluster
    with pytest.raises(UserError, match=line) if line else nullcontext():
        cluster.check_site(found, SINFO)


def test_a_profile_that_submits_needs_a_site():
    with pytest.raises(UserError, match="but this profile submits jobs"):
        cluster.check_start(configfile.load(DEFAULT), submits=True)
    cluster.check_start(configfile.load(DEFAULT), submits=False)
