"""What the Transformer computes on arrays, written so that XLA makes fast code of it; no weights here.

B batch, T position, N heads, H head dim, R pairs of H
"""

from functools import partial
from math import pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.custom_vjp
def linear(x: Array, w: Array) -> Array:
    """Returns x @ w for x of any rank and a matrix w.

    The gradient of w is written as x transposed times g: XLA on a CPU would else copy the wider g transposed,
    a tenth of a small model's step.
    """
    return x @ w


def linear_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return (g_rows @ w.T).reshape(x.shape), jax.lax.dot_general(rows, g_rows, (((0,), (0,)), ((), ())))


linear.defvjp(lambda x, w: (x @ w, (x, w)), linear_backward)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Returns x times the normal distribution's share below x (Hendrycks and Gimpel 2016), computed in float32.

    By erf, as PyTorch does. JAX's own takes erfc, which on a CPU is three times as much work, and keeps its parts.
    """
    wide = x.astype(jnp.float32)
    return (wide * below(wide)).astype(x.dtype)


def below(x: Array) -> Array:
    """Returns the share of a normal distribution that is below x."""
    return 0.5 * (1 + jax.lax.erf(x * sqrt(1 / 2)))


def gelu_backward(x: Array, g: Array) -> tuple[Array]:
    """Returns the gradient; both terms come from x anew, which costs less than to keep one."""
    x, g = anew(x, g)
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * sqrt(1 / (2 * pi))
    return ((g.astype(jnp.float32) * (below(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), gelu_backward)


def anew(*kept: Array | None) -> tuple[Array | None, ...]:
    """Returns what the forward pass kept, behind a fence.

    Without it XLA finds that what is computed of it was computed before, and keeps that in memory instead.
    """
    return jax.lax.optimization_barrier(kept)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def norm(x: Array, scale: Array | None, eps: float, centred: bool) -> Array:
    """Returns x over the root of its mean square along the last dim, less its mean before if `centred`, in float32.

    RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016), without its bias. Of x no more is kept for the
    backward pass than x itself, in its own dtype, which the residual stream keeps anyway.
    """
    return norm_forward(x, scale, eps, centred)[0]


def norm_forward(x: Array, scale: Array | None, eps: float, centred: bool) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True) if centred else None
    wide = wide - mean if centred else wide
    factor = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    y = wide * factor
    return y if scale is None else y * along_last(scale, x), (x, scale, mean, factor)


def norm_backward(eps: float, centred: bool, saved: tuple, g: Array) -> tuple[Array, Array | None]:
    x, scale, mean, factor = anew(*saved)
    wide = x.astype(jnp.float32)
    y = (wide - mean if centred else wide) * factor
    g_y = g if scale is None else g * along_last(scale, g)
    g_x = g_y - y * jnp.mean(g_y * y, axis=-1, keepdims=True)
    g_x = g_x - jnp.mean(g_y, axis=-1, keepdims=True) if centred else g_x
    g_scale = None if scale is None else jnp.sum(g * y, axis=tuple(range(g.ndim - 1))).astype(scale.dtype)
    return (g_x * factor).astype(x.dtype), g_scale


norm.defvjp(norm_forward, norm_backward)


def along_last(vector: Array, x: Array) -> Array:
    """Returns a vector with as many dims as x, so that it is spread over all but the last."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def turns(positions_T: np.ndarray | Array, dims: int, base: float) -> tuple[Array, Array]:
    """Returns cosine and sine of the angles by which positions turn the pairs of a head (RoPE), each _1T1R.

    For positions known when compiling they are constants: left to XLA, a CPU would compute them again for
    each element they are multiplied with.
    """
    xp = np if isinstance(positions_T, np.ndarray) else jnp
    frequencies_R = base ** (-np.arange(dims // 2, dtype=np.float32) / (dims // 2))
    # float32: bfloat16 has 8 bits, position 257 would become 256
    angles_1T1R = xp.einsum("T,R->TR", positions_T.astype(np.float32), frequencies_R)[None, :, None, :]
    return xp.cos(angles_1T1R), xp.sin(angles_1T1R)


def rotate(x_BTNH: Array, cos_1T1R: Array, sin_1T1R: Array, interleaved: bool) -> Array:
    """Returns queries or keys with their first 2 R dims turned.

    The two coordinates of a pair are neighbours (GPT-J) or stand in the two halves of those dims (Llama).
    """
    dims = 2 * cos_1T1R.shape[-1]
    pairs, rest = x_BTNH[..., :dims], x_BTNH[..., dims:]
    a, b = (pairs[..., 0::2], pairs[..., 1::2]) if interleaved else jnp.split(pairs, 2, axis=-1)
    turned = [a * cos_1T1R - b * sin_1T1R, b * cos_1T1R + a * sin_1T1R]
    joined = jnp.stack(turned, axis=-1).reshape(pairs.shape) if interleaved else jnp.concatenate(turned, axis=-1)
    joined = joined.astype(x_BTNH.dtype)
    return jnp.concatenate([joined, rest], axis=-1) if rest.shape[-1] else joined


def kept(keys_B: Array, rate: float, dims: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Returns dropout's factors for arrays of these dims, one per row: 0 or 1 / (1 - rate).

    Each row draws from its own key, so that neither the mesh nor the parts of a batch change what is dropped.
    """
    drawn = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, dims))(keys_B)
    return drawn.astype(dtype) / jnp.asarray(1 - rate, dtype)


def fold(keys_B: Array, number: int | Array) -> Array:
    """Returns a key per row for one of its uses."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)
