"""The layers whose gradient is written down, against what JAX makes of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from makelm import layers
from makelm.model import ACTIVATIONS


@pytest.mark.parametrize("dtype, within", [(jnp.float32, 3e-7), (jnp.bfloat16, 4e-3)])
def test_gelu_and_its_gradient_are_the_exact_ones(dtype, within):
    x = jnp.linspace(-9, 9, 4001, dtype=dtype)
    g = jnp.cos(x)

    def both(function, x, g):
        y, backward = jax.vjp(function, x)
        return np.float64(y), np.float64(backward(g)[0])

    wide = x.astype(jnp.float32), g.astype(jnp.float32)
    for found, exact in zip(
        both(layers.gelu, x, g), both(lambda x: jax.nn.gelu(x, approximate=False), *wide), strict=True
    ):
        np.testing.assert_allclose(found, exact, rtol=within, atol=within * 3)


def norm_as_defined(x, scale, eps, centred):
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True) if centred else wide
    wide = wide / jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide if scale is None else wide * jnp.broadcast_to(scale, wide.shape)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(6, 32), (2, 3, 4, 16)])
@pytest.mark.parametrize("dtype, within", [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-3)])
def test_a_norm_and_its_gradient_are_those_of_its_definition(centred, scaled, shape, dtype, within):
    keys = jax.random.split(jax.random.key(0), 3)
    x = (3 * jax.random.normal(keys[0], shape) + 1).astype(dtype)
    scale = 1 + 0.3 * jax.random.normal(keys[1], shape[-1:]) if scaled else None
    g = jax.random.normal(keys[2], shape)

    def both(function):
        y, backward = jax.vjp(lambda x, scale: function(x, scale, 1e-3, centred), x, scale)
        return y, *backward(g)

    for found, exact in zip(both(layers.norm), both(norm_as_defined), strict=True):
        assert (found is None) == (exact is None)
        if found is not None:
            assert found.dtype == exact.dtype and found.shape == exact.shape
            found, exact = np.float64(found), np.float64(exact)
            np.testing.assert_allclose(found, exact, rtol=within, atol=within * np.abs(exact).max())


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_an_activation_keeps_its_input_and_nothing_else(name):
    """What tanh or erf gave is computed again: kept, it took as much memory as all else of a feed-forward layer."""
    x = jnp.ones((1 << 20,))

    def temporary(function) -> int:
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.cos(function(x)))))
        return gradient.lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(ACTIVATIONS[name]) <= x.nbytes + 4096
