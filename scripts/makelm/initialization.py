"""How weights begin: the schemes of makelm and of those it follows, by a weight's role.

zero_out: what adds to the stream and the head begin at zero, so that each block begins as the identity (Zhang et
al. 2019, Fixup); fan_in: picodo's; xavier: NanoDO's (Glorot & Bengio 2010); gpt2: GPT-2's (Radford et al. 2019);
gptj: mesh-transformer-jax's; uniform: nanoJAXGPT's, which is Equinox's.

D model, F hidden, L layers, V vocabulary
"""

from collections.abc import Callable
from math import sqrt
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from makelm import config

# inner: reads the stream or what a block holds; output: adds to the stream; gated: nanoJAXGPT's layer inside the MLP
Role = Literal["embedding", "inner", "output", "gated", "head"]
Draw = Callable[[Array, tuple[int, ...]], Array]  # key, dims -> numbers of unit size


def bounded(key: Array, dims: tuple[int, ...]) -> Array:
    """Returns numbers that are uniform in -1 to 1."""
    return jax.random.uniform(key, dims, minval=-1, maxval=1)


def truncated(key: Array, dims: tuple[int, ...]) -> Array:
    """Returns normal numbers within two standard deviations, which makes theirs 0.88."""
    return jax.random.truncated_normal(key, -2, 2, dims)


def distribution(shape: config.Model, role: Role, fan_in: int, fan_out: int) -> tuple[Draw, float]:
    """Returns how a weight is drawn, and the factor on it. For an embedding fan_in is its rows."""
    D, L = shape.d_model, shape.n_layers
    own = 1 / sqrt(fan_in)
    match shape.init:
        case "zero_out":
            return jax.random.normal, {"embedding": 1.0, "output": 0.0, "head": 0.0}.get(role, own)
        case "fan_in":
            return jax.random.normal, 1 / sqrt(D) if role == "embedding" else own
        case "xavier" if role in ("embedding", "head"):
            return jax.random.normal, 1 / sqrt(D)
        case "xavier":
            return bounded, sqrt(6 / (fan_in + fan_out))
        case "gpt2":
            return jax.random.normal, 0.02 / sqrt(2 * L) if role == "output" else 0.02
        case "gptj":
            return truncated, 2 / L / sqrt(D) if role == "output" else own
        case "uniform" if role in ("embedding", "gated"):
            return jax.random.normal, 1.0
        case "uniform":
            return bounded, own
        case _:
            assert_never(shape.init)


class Weights:
    """Makes the parameters of one model, one after the other."""

    def __init__(self, shape: config.Model, rngs: nnx.Rngs, mesh: Mesh | None = None):
        self.shape, self.rngs, self.mesh = shape, rngs, mesh
        self.dtype = jnp.dtype(shape.parameter_dtype)

    def weight(self, dims: tuple[int, ...], role: Role, fan_in: int, fan_out: int) -> nnx.Param:
        """Returns a weight that begins as the scheme says."""
        draw, factor = distribution(self.shape, role, fan_in, fan_out)
        if factor == 0:
            return self.constant(dims, 0)
        return nnx.Param((factor * draw(self.rngs.params(), dims)).astype(self.dtype))

    def constant(self, dims: tuple[int, ...], value: float) -> nnx.Param:
        """Returns a bias or a scale."""
        return nnx.Param(jnp.full(dims, value, self.dtype))
