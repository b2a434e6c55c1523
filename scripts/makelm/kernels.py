"""What computes attention on a device: XLA's products, or a kernel of flash attention made for it."""

import re

import jax
import jax.numpy as jnp

from makelm import attention, config, flash
from makelm.errors import UserError

LEAST_CAPABILITY = 8.0  # Ampere: the first with bfloat16
NO_BFLOAT16 = ("TPU v2", "TPU v3")  # in products within a kernel


def of_attention(compute: config.Compute, shape: config.Model, device: jax.Device) -> str:
    """Returns the kernel of attention, xla, cudnn or splash, that a run's choice comes to on devices of this kind.

    Raises UserError where the chosen one cannot be.
    """
    kernel = compute.attention
    if kernel == "auto":
        kernel = "splash" if device.platform == "tpu" else "cudnn"
        return "xla" if without(kernel, shape, device) else kernel
    why_not = without(kernel, shape, device)
    if why_not:
        raise UserError(f"compute.attention: {kernel} {why_not}; set it to auto or xla")
    return kernel


def without(kernel: str, shape: config.Model, device: jax.Device) -> str | None:
    """Returns why a kernel cannot be used on such a device, or None where it can."""
    if kernel == "xla":
        return None
    why_not = without_cudnn(device) if kernel == "cudnn" else without_splash(shape, device)
    if why_not:
        return why_not
    if not attention.is_causal(shape.context_length):
        return "computes causal attention only, and attention.sees is another"
    if shape.compute_dtype != "bfloat16" or shape.dropout:
        return "needs model.compute_dtype: bfloat16 and drops out nothing"
    return refusal(shape) if kernel == "cudnn" else None


def without_cudnn(device: jax.Device) -> str | None:
    """Returns why cuDNN has no flash attention for a device, or None where it has."""
    # of an AMD GPU it is a name, as gfx90a
    capability = getattr(device, "compute_capability", "")
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < LEAST_CAPABILITY:
        return f"is for NVIDIA GPUs from Ampere on, this is a {device.device_kind}"
    return None


def refusal(shape: config.Model) -> str | None:
    """Returns which of JAX's checks of the shape, GPU and version cuDNN's flash attention fails, or None."""
    try:
        jax.eval_shape(lambda *given: jax.vjp(lambda *of: flash.cudnn(*of, given[-1]), *given[:-1]), *example(shape))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return f"does not do this here: {str(error).strip().splitlines()[0].rstrip('.')}"
    return None


def without_splash(shape: config.Model, device: jax.Device) -> str | None:
    """Returns why splash attention cannot be used on a device, or None where it can."""
    if device.platform != "tpu" or device.device_kind in NO_BFLOAT16:
        return f"is for TPUs from v4 on, this is a {device.device_kind}"
    if shape.context_length % flash.LANES:
        return f"needs a model.context_length that is a multiple of {flash.LANES}, this is {shape.context_length}"
    return None


def example(shape: config.Model) -> tuple[jax.ShapeDtypeStruct | None, ...]:
    """Returns queries, keys, values and documents of one row, as shapes."""

    def heads(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, shape.context_length, count, shape.d_head), jnp.bfloat16)

    documents_BT = jax.ShapeDtypeStruct((1, shape.context_length), jnp.int32) if shape.mask_documents else None
    return heads(shape.n_heads), heads(shape.n_kv_heads), heads(shape.n_kv_heads), documents_BT
