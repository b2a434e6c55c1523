"""The products of matrices of a training step, by XLA: of each (rows, in, out) forward and both gradients."""

import jax
import jax.numpy as jnp
from turn import serve, task


@jax.jit
def products(given):
    return [(x @ w, g @ w.T, jax.lax.dot_general(x, g, (((0,), (0,)), ((), ())))) for x, w, g in given]


def normal(*dims: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(dims)), dims, jnp.float32)


given = [(normal(r, i), normal(i, o), normal(r, o)) for r, i, o in task()["products"]]


def work(steps: int) -> None:
    for _ in range(steps):
        jax.block_until_ready(products(given))


work(1)
serve({"jax": jax.__version__}, work)
