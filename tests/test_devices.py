"""The devices that a plan is for; `tests/faults/test_plans.py` has whole plans for devices that are not here."""

from importlib import util

import jax
import pytest
from plans import plan

from makelm import config, devices
from makelm.errors import UserError


def test_stated_memory_that_is_too_small_is_refused(tmp_path):
    code, said, found = plan(tmp_path, devices=256, memory_gb=1e-5)
    assert code == 2 and not found
    assert "GB on each device, stated device has 0.00 GB; raise compute.accumulate" in said


def test_the_devices_of_this_machine_are_those_of_a_local_plan():
    local = devices.find(config.Hardware(devices="local", topology=None, memory_gb=None, packages="cpu"), print)
    assert (local.devices, local.how) == (jax.devices(), "here") and local.memory > 0
    stated = devices.find(config.Hardware(devices=8, topology=None, memory_gb=2.5, packages="cpu"), print)
    assert (stated.how, stated.memory) == ("here", 2_500_000_000)


@pytest.mark.parametrize(("topology", "extra"), [("h100:8", "cuda"), ("v3:16x8", "tpu")])
def test_a_compiler_that_is_missing_is_installed_as_the_lock_file_has_it(monkeypatch, topology, extra):
    for place, name in ((devices.gpus, "plugin"), (devices.gpus, "without_a_driver"), (devices, "tpu_compiler")):
        monkeypatch.setattr(place, name, lambda: None)
    monkeypatch.setattr(devices, "simulated", lambda count: jax.devices())
    said = []
    devices.find(config.Hardware(devices=16, topology=topology, memory_gb=None, packages="cpu"), said.append)
    assert said[0].endswith(f"without these devices, after: .venv/bin/uv sync --locked --inexact --extra {extra}")


@pytest.mark.skipif(util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_topology_that_is_none_is_named():
    with pytest.raises(UserError, match=r"hardware.topology: libtpu does not make 'v3:16y8'"):
        devices.topology("v3:16y8", 256)
    with pytest.raises(UserError, match=r"hardware.topology: v3:16x8 has 256 devices, hardware.devices states 8"):
        devices.topology("v3:16x8", 8)
