"""The layers whose gradient is written down, against what JAX makes of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from makelm import layers


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
