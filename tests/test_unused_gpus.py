"""A GPU that nothing would use is said, with the way to use it."""

import pytest

from makelm import unused_gpus


@pytest.mark.parametrize("node", ["nvidia0", "nvidia11", "dxg"])
def test_a_gpu_that_jax_has_no_packages_for_is_said(tmp_path, monkeypatch, node):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(unused_gpus, "PLUGINS", ("no_such_plugin",))
    (tmp_path / node).touch()
    assert unused_gpus.advice("cpu", tmp_path).endswith("--extra cuda")
    monkeypatch.setattr(unused_gpus, "PLUGINS", ("jax",))
    assert "says the reason" in unused_gpus.advice("cpu", tmp_path)


def test_nothing_is_said_where_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "nvidiactl").touch()  # is there without a GPU too
    assert unused_gpus.advice("cpu", tmp_path) is None
    (tmp_path / "nvidia0").touch()
    assert unused_gpus.advice("gpu", tmp_path) is None
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # wanted so
    assert unused_gpus.advice("cpu", tmp_path) is None
