"""The most floating-point operations per second that devices can do, and what share of them a training uses.

Dense bfloat16 multiplications with float32 sums, of one device as JAX counts them; where a vendor gives the number with
sparsity, half of it. From NVIDIA's data sheets of each product and its white papers on GA102 and Ada for GeForce, and
Google Cloud's pages on each TPU generation.
"""

import re

# device_kind as JAX gives it: on GPUs the driver's name, in full, as an H100 PCIe is no H100 SXM, a 4090 D no 4090
PEAKS = {
    # no bfloat16 in their tensor cores: the number is float16's
    r"Tesla V100-SXM[23]-\d+GB(-LS)?": 125e12,
    r"Tesla V100-PCIE-\d+GB": 112e12,
    r"Tesla V100S-PCIE-32GB": 130e12,
    r"(Tesla|NVIDIA) T4": 65e12,
    r"(NVIDIA )?A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": 312e12,
    r"NVIDIA A10": 125e12,
    r"NVIDIA A10G": 70e12,
    r"NVIDIA H100 80GB HBM3": 989e12,  # SXM
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H100 NVL": 835e12,
    r"NVIDIA GH200 \d+GB": 989e12,
    r"NVIDIA H200": 989e12,  # SXM
    r"NVIDIA H200 NVL": 835e12,
    r"NVIDIA B200": 2250e12,
    r"NVIDIA L4": 121e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA GeForce RTX 3090": 71e12,
    r"NVIDIA GeForce RTX 4090": 165.2e12,
    # half a chip: each of its two cores is a device
    r"TPU v2": 46e12 / 2,
    r"TPU v3": 123e12 / 2,
    r"TPU v4": 275e12,
    r"TPU (v5e|v5 lite)": 197e12,
    r"TPU (v5p|v5)": 459e12,
    r"TPU (v6e|v6 lite)": 918e12,
}


def peak(device_kind: str) -> float | None:
    """Returns the FLOP/s of a device with this name at most, or None where it is not known, as of a CPU."""
    return next((flops for pattern, flops in PEAKS.items() if re.fullmatch(pattern, device_kind)), None)


def utilization(tokens_per_second: float, flops_per_token: float, device_kind: str) -> float | None:
    """Returns the model FLOPs utilization (MFU), 0 to 1, of a device that trains on so many tokens per second.

    `flops_per_token` is that of flops.flops_per_token: what is computed again for the sake of memory counts nothing.
    None where the device's peak is not known.
    """
    most = peak(device_kind)
    return None if most is None else tokens_per_second * flops_per_token / most
