"""GPUs that a plan can be compiled for without one; `tests/faults/test_plans.py` compiles for them."""

import pytest

from makelm import device_peaks, gpus
from makelm.errors import UserError


def test_topologies_of_gpus_are_told_from_those_of_tpus():
    assert gpus.named("h100:8").kind == "NVIDIA H100 80GB HBM3"
    assert gpus.named("a100:4x8").memory == 80e9
    assert gpus.named("v3:16x8") is None and gpus.named("v5e:2x2") is None


def test_a_misspelt_gpu_is_no_tpu():
    with pytest.raises(UserError, match=r"^hardware.topology: 'h1000:8' is none of GPUs .*; did you mean 'h100'\?$"):
        gpus.named("h1000:8")


@pytest.mark.parametrize("topology", ["h100", "h100:", "h100:0", "h100:2x0", "h100:1x2x3", "h100:8 "])
def test_a_number_of_gpus_that_is_none_is_one_line(topology):
    with pytest.raises(
        UserError, match=r"^hardware.topology: 'h100.* is no number of GPUs; as h100:8, or of 4 hosts, h100"
    ):
        gpus.devices(topology)


@pytest.mark.parametrize("name", gpus.GPUS)
def test_a_gpu_has_a_peak_and_is_described_for_the_packages_that_are_installed(name, monkeypatch):
    versions = {"nvidia-cudnn-cu13": "9.28.0.42", "nvidia-cuda-runtime": "13.5.37"}
    monkeypatch.setattr(gpus.metadata, "version", versions.__getitem__)
    gpu = gpus.GPUS[name]
    assert device_peaks.peak(gpu.kind) is not None
    text = " ".join(gpu.described("jax-cuda13-plugin").split())
    assert f'device_description_str: "{gpu.kind}"' in text and f"device_memory_size: {gpu.memory:.0f} " in text
    assert "dnn_version_info { major: 9 minor: 28 patch: 0 }" in text
    assert "runtime_version { major: 13 minor: 5 patch: 0 }" in text
    assert ("ACCELERATED_FEATURES" in text) == (gpu.capability >= (9, 0))
