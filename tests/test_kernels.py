"""Which kernel computes attention; `tests/faults/test_plans.py` compiles for GPUs where JAX's plugin is installed."""

from types import SimpleNamespace

import jax
import pytest
from conftest import COMPUTE, shape

from makelm import config, kernels
from makelm.errors import UserError

CPU = jax.devices("cpu")[0]
HOPPER = SimpleNamespace(compute_capability="9.0", device_kind="NVIDIA H100 80GB HBM3")
TURING = SimpleNamespace(compute_capability="7.5", device_kind="Tesla T4")
AMD = SimpleNamespace(compute_capability="gfx90a", device_kind="AMD Instinct MI210")
BF16 = {"compute_dtype": "bfloat16"}


def chosen(attention: str, device, **model) -> str:
    return kernels.of_attention(config.Compute(**COMPUTE | {"attention": attention}), shape(**model), device)


@pytest.mark.parametrize("device", [CPU, TURING, AMD], ids=lambda device: device.device_kind)
def test_flash_attention_is_left_to_nvidias_gpus_that_have_bfloat16(device):
    assert chosen("auto", device, **BF16) == chosen("xla", device, **BF16) == "xla"
    with pytest.raises(UserError, match=rf"^compute.attention: cudnn is for .* this is a {device.device_kind}; set it"):
        chosen("cudnn", device, **BF16)


@pytest.mark.parametrize("model", [{}, BF16 | {"dropout": 0.1}], ids=["float32", "dropout"])
def test_a_kernel_never_changes_what_is_computed(model):
    assert chosen("auto", HOPPER, **model) == "xla"
    with pytest.raises(UserError, match=r"cudnn needs model.compute_dtype: bfloat16 and drops out nothing; set it to"):
        chosen("cudnn", HOPPER, **model)


def test_what_jax_refuses_is_said_in_its_words_and_auto_does_without(monkeypatch):
    def refuse(*_, kernel):
        raise NotImplementedError("The head dim must be <= 128.\nmore")

    monkeypatch.setattr(kernels.layers, "flash_attention", refuse)
    assert chosen("auto", HOPPER, **BF16) == "xla"
    with pytest.raises(
        UserError, match=r"^compute.attention: cudnn does not .* must be <= 128; set it to auto or xla$"
    ):
        chosen("cudnn", HOPPER, **BF16)


def test_the_kernel_is_tried_with_the_runs_own_heads_length_and_mask(monkeypatch):
    tried = []
    monkeypatch.setattr(
        kernels.layers, "flash_attention", lambda q, k, v, mask, kernel: tried.append((q, k, mask)) or q
    )
    model = {"n_heads": 4, "n_kv_heads": 2, "d_head": 16, "context_length": 32}
    for masked in (False, True):
        assert chosen("auto", HOPPER, **BF16 | model | {"mask_documents": masked}) == "cudnn"
        q, k, mask = tried[-1]
        assert (q.shape, k.shape) == ((1, 32, 4, 16), (1, 32, 2, 16))
        assert (mask is None) if not masked else mask.shape == (1, 32, 32)
