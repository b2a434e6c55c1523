"""What a cluster's scheduler is asked for: nodes and GPUs from a run's devices, the rest from the site's settings."""

from dataclasses import dataclass
from math import prod

from makelm import meshes, stages
from makelm.config import Cluster, Config, Run
from makelm.errors import UserError

TRAINING = "train_model"
ACCELERATED = (TRAINING, "sample_model", "evaluate_model")
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


def check(settings: Config) -> None:
    """Raises UserError where a run to be trained cannot be on the cluster."""
    if settings.cluster:
        for name, run in stages.trained_runs(settings).items():
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
        meshes.mesh_shape(run.mesh, devices)
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
    return Layout(nodes, devices, devices if cluster.process_per == "device" else nodes)


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
    if stage in ACCELERATED and cluster.gpus:
        asked |= {"gpu": 1, "tasks_per_gpu": 0, "gpu_model": None if cluster.gpus == "any" else cluster.gpus}
    if stage == TRAINING:
        asked |= training(cluster, layout(cluster, run, settings.run[run]), cores)
        asked["further"] = f"--launcher slurm-{cluster.process_per} {further}".strip()
        asked["gpu"] = asked["gpu"] and layout(cluster, run, settings.run[run]).devices
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
