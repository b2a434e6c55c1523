"""MFU: the right peak for each name of a device, and none for others."""

import pytest

from makelm import device_peaks


@pytest.mark.parametrize(
    ("device_kind", "teraflops"),
    [
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla T4", 65),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("TPU v2", 23),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_each_device_has_its_own_peak(device_kind, teraflops):
    assert device_peaks.peak(device_kind) == teraflops * 1e12


@pytest.mark.parametrize(
    "device_kind",
    [
        "cpu",
        "",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",  # a part of one
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA L40",
        "NVIDIA A100X",
        "TPU v4 lite",
    ],
)
def test_what_only_resembles_one_has_none(device_kind):
    assert device_peaks.peak(device_kind) is None
    assert device_peaks.utilization(1000, 1e9, device_kind) is None


def test_utilization_is_the_share_of_the_peak():
    # 150 of 312 TFLOP/s
    assert device_peaks.utilization(25_000, 6 * 1e9, "NVIDIA A100-SXM4-80GB") == pytest.approx(0.4808, abs=1e-4)
