"""Which kernel computes attention; `tests/faults/test_plans.py` compiles for GPUs and TPUs whose compilers
are installed."""

from types import SimpleNamespace

import jax
import pytest
from conftest import COMPUTE, shape

from makelm import attention, config, kernels
from makelm.errors import UserError

CPU = jax.devices("cpu")[0]
HOPPER = SimpleNamespace(platform="gpu", compute_capability="9.0", device_kind="NVIDIA H100 80GB HBM3")
TURING = SimpleNamespace(platform="gpu", compute_capability="7.5", device_kind="Tesla T4")
AMD = SimpleNamespace(platform="gpu", compute_capability="gfx90a", device_kind="AMD Instinct MI210")
TPU, OLD_TPU = (SimpleNamespace(platform="tpu", device_kind=f"TPU {kind}") for kind in ("v5 lite", "v3"))
BF16 = {"compute_dtype": "bfloat16"}


def chosen(kernel: str, device, **model) -> str:
    return kernels.of_attention(config.Compute(**COMPUTE | {"attention": kernel}), shape(**model), device)


@pytest.mark.parametrize("device", [CPU, TURING, AMD], ids=lambda device: device.device_kind)
def test_flash_attention_is_left_to_nvidias_gpus_that_have_bfloat16(device):
    assert chosen("auto", device, **BF16) == chosen("xla", device, **BF16) == "xla"
    with pytest.raises(UserError, match=rf"^compute.attention: cudnn is for .* this is a {device.device_kind}; set it"):
        chosen("cudnn", device, **BF16)


@pytest.mark.parametrize("device", [CPU, HOPPER, OLD_TPU], ids=lambda device: device.device_kind)
def test_splash_attention_is_left_to_tpus_that_multiply_bfloat16(device):
    model = BF16 | {"context_length": 256}
    assert chosen("auto", TPU, **model) == chosen("splash", TPU, **model) == "splash"
    assert chosen("auto", OLD_TPU, **model) == "xla"
    with pytest.raises(UserError, match=f"^compute.attention: splash is for TPUs from v4 on, .* {device.device_kind};"):
        chosen("splash", device, **model)


def test_splash_attention_takes_positions_by_128():
    assert chosen("auto", TPU, **BF16, context_length=192) == "xla"
    with pytest.raises(UserError, match=r"splash needs a model.context_length that is a multiple of 128, this is 192;"):
        chosen("splash", TPU, **BF16, context_length=192)


@pytest.mark.parametrize(("kernel", "device"), [("cudnn", HOPPER), ("splash", TPU)])
@pytest.mark.parametrize("model", [{}, BF16 | {"dropout": 0.1}], ids=["float32", "dropout"])
def test_a_kernel_never_changes_what_is_computed(model, kernel, device):
    model = model | {"context_length": 128}
    assert chosen("auto", device, **model) == "xla"
    with pytest.raises(UserError, match=f"{kernel} needs model.compute_dtype: bfloat16 and drops out nothing; set it"):
        chosen(kernel, device, **model)


@pytest.mark.parametrize("window", [3, 127])
@pytest.mark.parametrize(("kernel", "device"), [("cudnn", HOPPER), ("splash", TPU)])
def test_attention_to_other_positions_than_all_before_is_left_to_no_kernel(kernel, device, window, monkeypatch):
    monkeypatch.setattr(attention, "sees", lambda query, key: (key <= query) & (query - key < window))
    assert chosen("auto", device, **BF16, context_length=128) == "xla"
    with pytest.raises(
        UserError, match=f"^compute.attention: {kernel} computes causal attention only, and attention.sees"
    ):
        chosen(kernel, device, **BF16, context_length=128)


def test_what_jax_refuses_is_said_in_its_words_and_auto_does_without(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("The head dim must be <= 128.\nmore")

    monkeypatch.setattr(kernels.flash, "cudnn", refuse)
    assert chosen("auto", HOPPER, **BF16) == "xla"
    with pytest.raises(
        UserError, match=r"^compute.attention: cudnn does not .* must be <= 128; set it to auto or xla$"
    ):
        chosen("cudnn", HOPPER, **BF16)


def test_the_kernel_is_tried_with_the_runs_own_heads_length_and_mask(monkeypatch):
    tried = []
    monkeypatch.setattr(kernels.flash, "cudnn", lambda q, k, v, documents: tried.append((q, k, documents)) or q)
    model = {"n_heads": 4, "n_kv_heads": 2, "d_head": 16, "context_length": 32}
    for masked in (False, True):
        assert chosen("auto", HOPPER, **BF16 | model | {"mask_documents": masked}) == "cudnn"
        q, k, documents = tried[-1]
        assert (q.shape, k.shape) == ((1, 32, 4, 16), (1, 32, 2, 16))
        assert (documents is None) if not masked else documents.shape == (1, 32)
