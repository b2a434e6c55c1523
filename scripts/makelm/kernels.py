"""What computes attention on a device: XLA's products, or the flash attention of NVIDIA's cuDNN."""

import re
from functools import partial

import jax
import jax.numpy as jnp

from makelm import config, layers
from makelm.errors import UserError

LEAST_CAPABILITY = 8.0  # Ampere: the first with bfloat16


def of_attention(compute: config.Compute, shape: config.Model, device: jax.Device) -> str:
    """Returns the kernel of attention, xla or cudnn, that a run's choice comes to on devices of this kind.

    Raises UserError where the chosen one cannot be.
    """
    if compute.attention == "xla":
        return "xla"
    why_not = without_flash(shape, device)
    if compute.attention == "cudnn" and why_not:
        raise UserError(f"compute.attention: cudnn {why_not}; set it to auto or xla")
    return "xla" if why_not else "cudnn"


def without_flash(shape: config.Model, device: jax.Device) -> str | None:
    """Returns why cuDNN's flash attention cannot be used, or None where it can."""
    # of an AMD GPU it is a name, as gfx90a
    capability = getattr(device, "compute_capability", "")
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < LEAST_CAPABILITY:
        return f"is for NVIDIA GPUs from Ampere on, this is a {device.device_kind}"
    if shape.compute_dtype != "bfloat16" or shape.dropout:
        return "needs model.compute_dtype: bfloat16 and drops out nothing"
    try:
        jax.eval_shape(lambda *given: jax.vjp(partial(layers.flash_attention, kernel="cudnn"), *given), *example(shape))
    except (NotImplementedError, RuntimeError, ValueError) as error:  # JAX's checks of the shape, GPU and version
        return f"does not do this here: {str(error).strip().splitlines()[0].rstrip('.')}"
    return None


def example(shape: config.Model) -> tuple[jax.ShapeDtypeStruct | None, ...]:
    """Returns queries, keys, values and mask of one row, as shapes."""

    def heads(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, shape.context_length, count, shape.d_head), jnp.bfloat16)

    T = shape.context_length
    mask_BTS = jax.ShapeDtypeStruct((1, T, T), jnp.bool) if shape.mask_documents else None
    return heads(shape.n_heads), heads(shape.n_kv_heads), heads(shape.n_kv_heads), mask_BTS
