"""What a cluster's scheduler is asked for: nodes and GPUs from a run's devices, the rest from the site's settings."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from math import prod

from makelm import meshes, used
from makelm.config import Config, Run
from makelm.config_cluster import Cluster
from makelm.config_types import did_you_mean
from makelm.errors import UserError

TRAINING = "train_model"
ACCELERATED = (TRAINING, "sample_model", "evaluate_model", "evaluate_task")
STARTED = ("launch", "further")  # what stands before a stage's own words, and what after them
ASKED = (
    "slurm_partition",
    "slurm_account",
    "qos",
    "runtime",
    "mem_mb",
    "slurm_extra",
    "gpu",
    "gpu_model",
    "tasks_per_gpu",
    "nodes",
    "tasks",
    "cpus_per_task",
    "mpi",
)


@dataclass(frozen=True)
class Layout:
    """The machines of one training."""

    nodes: int
    devices: int
    processes: int
    mesh: dict[str, int]  # how many devices lie along each axis


def check(settings: Config) -> None:
    """Raises UserError where a run to be trained cannot be on the cluster."""
    if settings.cluster:
        for name, run in used.runs(settings).items():
            layout(settings.cluster, name, run)


def layout(cluster: Cluster, name: str, run: Run) -> Layout:
    """Returns what a run is trained on. Raises UserError where that is not known, or more than the site has."""
    devices = run.hardware.devices
    sizes = [getattr(run.mesh, axis) for axis in meshes.AXES]
    if devices == "local":
        if prod(sizes) != 1:
            raise UserError(
                f"run.{name}.hardware.devices: local says nothing on a cluster; state how many devices its mesh lies on"
            )
        devices = 1
    try:
        mesh = meshes.mesh_shape(run.mesh, devices)
    except UserError as error:
        raise UserError(f"run.{name}.{error}") from None
    nodes = -(-devices // cluster.devices_per_node)
    if nodes > cluster.nodes:
        most = cluster.nodes * cluster.devices_per_node
        raise UserError(
            f"run.{name}.hardware.devices: {devices} are more than the cluster's {most}"
            f" (cluster.nodes: {cluster.nodes}, cluster.devices_per_node: {cluster.devices_per_node})"
        )
    if devices % nodes:
        raise UserError(
            f"run.{name}.hardware.devices: {devices} do not divide over {nodes} nodes of {cluster.devices_per_node}"
        )
    return Layout(nodes, devices, devices if cluster.process_per == "device" else nodes, mesh)


def keys(settings: Config) -> tuple[str, ...]:
    """Returns the names of the resources that `request` gives."""
    return (*STARTED, *ASKED) if settings.cluster else STARTED


def request(settings: Config, stage: str, run: str | None, cores: int, attempt: int) -> dict[str, int | str | None]:
    """Returns the resources of a stage's job, as Snakemake's Slurm plugin names them; None: not asked for."""
    cluster = settings.cluster
    further = f"--attempt {attempt}" if attempt > 1 else ""
    if cluster is None:
        return {"launch": "exec", "further": further}
    queue = cluster.accelerator if stage in ACCELERATED else cluster.cpu
    asked = dict.fromkeys(ASKED) | {
        "further": further,
        # by srun, so that the stage itself hears what ends a job, and not only Snakemake above it
        "launch": f"exec srun --overlap -n1 -c{cores}",
        "slurm_partition": queue.partition,
        "slurm_account": queue.account,
        "qos": queue.qos,
        "runtime": queue.minutes,
        "mem_mb": round(1000 * queue.memory_gb),
        "slurm_extra": queue.extra,
    }
    if stage not in ACCELERATED:
        return asked
    machines = layout(cluster, run, settings.run[run])
    if stage == TRAINING:
        asked |= training(cluster, machines, cores)
        asked["further"] = f"--launcher slurm-{cluster.process_per} {further}".strip()
    if cluster.gpus:
        kind = None if cluster.gpus == "any" else cluster.gpus
        asked |= {"gpu": machines.devices, "tasks_per_gpu": 0, "gpu_model": kind}
        if stage != TRAINING:  # a single process, so what one node has of the run's mesh
            asked |= {"nodes": 1, "gpu": prod(meshes.share(machines.mesh, cluster.devices_per_node).values())}
    return asked


def training(cluster: Cluster, of: Layout, cores: int) -> dict[str, int | str]:
    """Returns what a training is asked for beside what all jobs are: `cores` for each of its processes."""
    alone = of.processes == 1
    return {
        # -K1: when one process dies the others end
        "launch": f"exec srun -n{of.processes} -N{of.nodes} -c{cores} -K1",
        "slurm_extra": " ".join(filter(None, [cluster.accelerator.extra, f"--signal=USR1@{cluster.warn_seconds}"])),
        # leaves it to the rule to start processes; the plugin wants two tasks or more for that, so those of a single
        # process have half of its cores each
        "mpi": "srun",
        "nodes": of.nodes,
        "tasks": 2 if alone else of.processes,
        "cpus_per_task": -(-cores // 2) if alone else cores,
    }


# ---- what the site really has


@dataclass(frozen=True)
class Nodes:
    """So many nodes of a partition, each with so many MB and GPUs of the wanted kind."""

    count: int
    memory: int
    devices: int


def gpus(listed: str, kind: str | None) -> int:
    """Returns how many GPUs of a kind, or of any, a node has of which Slurm says gpu:a100:8(S:0-1),gpu:t4:2."""
    found = re.findall(r"gpu:(?:([^:,()]+):)?(\d+)", listed)
    return sum(int(count) for name, count in found if kind in ("any", name or "any"))


def check_start(settings: Config, submits: bool) -> None:
    """Raises UserError where Snakemake submits jobs and nothing says where to, or what the site does not have."""
    if submits and settings.cluster is None:
        raise UserError(
            "cluster: is null, but this profile submits jobs; name workflow/profiles/slurm/site.yaml"
            " after your own --configfile"
        )
    if submits and shutil.which("sinfo"):  # another scheduler says itself what it does not have
        check_site(settings.cluster, sinfo())


def check_site(cluster: Cluster, partitions: str) -> None:
    """Raises UserError where the site's settings ask for what Slurm does not have; `partitions` is what sinfo says."""
    found: dict[str, list[Nodes]] = {}
    for line in partitions.splitlines():
        name, count, memory, devices = line.split("|")
        nodes = Nodes(int(count), int(memory.rstrip("+")), gpus(devices, cluster.gpus))
        for known in {name.rstrip("*"), *(["default"] if name.endswith("*") else [])}:
            found.setdefault(known, []).append(nodes)
    for kind in ("cpu", "accelerator"):
        queue = getattr(cluster, kind)
        wanted, where = queue.partition or "default", f"cluster.{kind}"
        if wanted not in found:
            there = did_you_mean(wanted, found) or f"; there are: {', '.join(sorted(found.keys() - {'default'}))}"
            raise UserError(f"{where}.partition: Slurm has no {queue.partition or 'default partition'}{there}")
        most = max(nodes.memory for nodes in found[wanted])
        if 1000 * queue.memory_gb > most:
            raise UserError(f"{where}.memory_gb: {queue.memory_gb:g}, but nodes of {wanted} have {most / 1000:g}")
    if not cluster.gpus:
        return
    kinds = found[cluster.accelerator.partition or "default"]
    fitting = sum(nodes.count for nodes in kinds if nodes.devices >= cluster.devices_per_node)
    if not fitting:
        most = max(nodes.devices for nodes in kinds)
        of = "" if cluster.gpus == "any" else f" {cluster.gpus}"
        raise UserError(f"cluster.devices_per_node: {cluster.devices_per_node}, but nodes have at most {most}{of} GPUs")
    if fitting < cluster.nodes:
        raise UserError(f"cluster.nodes: {cluster.nodes}, but {fitting} have {cluster.devices_per_node} GPUs")


def sinfo() -> str:
    """Returns what Slurm says of its partitions. Raises UserError where it says nothing."""
    try:
        words = ["sinfo", "-h", "-e", "-o", "%P|%D|%m|%G"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:]
        raise UserError(f"cluster: Slurm does not answer: {''.join(last)}") from None
