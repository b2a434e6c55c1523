"""NVIDIA GPUs that a step can be compiled for where there is none: what XLA must know of one, and their topologies."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

import jax
from jax.experimental import topologies

from makelm.config_types import did_you_mean
from makelm.errors import UserError

# JAX's plugin -> the packages whose versions a program is compiled for: cuDNN and the CUDA runtime
PLUGINS = {
    "jax-cuda13-plugin": ("nvidia-cudnn-cu13", "nvidia-cuda-runtime"),
    "jax-cuda12-plugin": ("nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12"),
}
TPU = re.compile(r"v\d|tpu")  # as libtpu's names begin
TOPOLOGY = re.compile(r"(?P<name>\w+):((?P<hosts>[1-9]\d*)x)?(?P<each>[1-9]\d*)")


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, by NVIDIA's data sheets, its architecture white papers and the CUDA programming guide."""

    kind: str  # as JAX names it
    capability: tuple[int, int]  # compute capability
    cores: int  # streaming multiprocessors
    lanes: int  # float32 lanes of each
    threads: int  # most at a time on each
    shared_memory: int  # bytes of each, of which a block can have all but 1 KiB
    cache: int  # bytes of L2
    clock: float  # GHz, boosted
    bandwidth: float  # bytes per second
    memory: float  # bytes

    def described(self, plugin: str) -> str:
        """Returns a GPU as XLA reads it (GpuTargetConfigProto, as text), with the versions of the packages here."""
        cudnn, runtime = (metadata.version(package).split(".") for package in PLUGINS[plugin])
        major, minor = self.capability
        # from Hopper on, the newest tensor cores' instructions are of one capability only
        features = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {self.threads}
              core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
              shared_memory_per_block: 49152 shared_memory_per_block_optin: {self.shared_memory - 1024}
              shared_memory_per_core: {self.shared_memory} l2_cache_size: {self.cache}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth:.0f} device_memory_size: {self.memory:.0f}
              cuda_compute_capability {{ major: {major} minor: {minor} {features} }}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
            runtime_version {{ major: {runtime[0]} minor: {runtime[1]} patch: 0 }}
            device_description_str: "{self.kind}"
        """


KIB, MIB = 2**10, 2**20
# as hardware.topology names it -> the GPU; memory as the vendor counts it, a little less than there is
GPUS = {
    "a100_40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 164 * KIB, 40 * MIB, 1.41, 1.555e12, 40e9),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 * KIB, 40 * MIB, 1.41, 2.039e12, 80e9),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 * KIB, 50 * MIB, 1.98, 3.35e12, 80e9),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 2048, 228 * KIB, 50 * MIB, 1.98, 4.8e12, 141e9),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 2048, 228 * KIB, 126 * MIB, 1.965, 8e12, 180e9),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 1536, 100 * KIB, 48 * MIB, 2.04, 300e9, 24e9),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 142, 128, 1536, 100 * KIB, 96 * MIB, 2.52, 864e9, 48e9),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", (8, 6), 82, 128, 1536, 100 * KIB, 6 * MIB, 1.695, 936e9, 24e9),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 1536, 100 * KIB, 72 * MIB, 2.52, 1008e9, 24e9),
}


def named(topology: str) -> Gpu | None:
    """Returns the GPU of a topology such as h100:8 or h100:4x8 (hosts x GPUs of each); None: it is one of TPUs.

    Raises UserError where it is neither.
    """
    name = topology.partition(":")[0]
    if name not in GPUS and not TPU.match(name):
        raise UserError(
            f"hardware.topology: {topology!r} is none of GPUs ({', '.join(GPUS)}) nor of TPUs, as v3:16x8 is one"
            f"{did_you_mean(name, GPUS)}"
        )
    return GPUS.get(name)


def plugin() -> str | None:
    """Returns JAX's plugin for NVIDIA GPUs that is installed, if one is."""
    return next((name for name in PLUGINS if util.find_spec(name.replace("-", "_"))), None)


def without_a_driver() -> None:
    """Has JAX load its plugin where there is no driver: it would else look for one first, and give up."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def devices(topology: str) -> Sequence[jax.Device]:
    """Returns the GPUs of a topology, which can be compiled for and hold nothing. Raises UserError if it is none."""
    shape = TOPOLOGY.fullmatch(topology)
    if shape is None:
        raise UserError(f"hardware.topology: {topology!r} is no number of GPUs; as h100:8, or of 4 hosts, h100:4x8")
    config = GPUS[shape["name"]].described(plugin())
    parts = f"1x{shape['hosts'] or 1}x{shape['each']}"
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology=parts).devices
