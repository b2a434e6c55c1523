"""The rate of a large product of matrices on the accelerator, in its dense peak's place: FLOP a second."""

import jax
import jax.numpy as jnp
from turn import serve, task

SIDE, PRODUCTS = 8192, 20
dtype = jnp.dtype(task()["dtype"])
one = jax.random.normal(jax.random.key(0), (SIDE, SIDE), dtype)


@jax.jit
def products(x):
    return jax.lax.fori_loop(0, PRODUCTS, lambda _, y: (y @ one) / SIDE**0.5, x)


def work(times: int) -> None:
    for _ in range(times):
        products(one).block_until_ready()


work(1)
serve({"flop": 2 * SIDE**3 * PRODUCTS, "device": jax.devices()[0].device_kind}, work)
