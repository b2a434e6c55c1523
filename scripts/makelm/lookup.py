"""Rows of the embedding for tokens, and what becomes of their gradient.

G group of devices along data, B batch, T position, R row (a position of a window), D model, V vocabulary
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from makelm import sharding


def look_up(mesh: Mesh | None, table_VD: Array, tokens_BT: Array) -> Array:
    """Returns the rows of a table for tokens, x_BTD.

    The devices along fsdp look up all of their tokens, each in its own columns, and then exchange what they found:
    that is less than the table, whose gradient so stays where the table is.
    """
    tokens_BT = sharding.laid_out(mesh, tokens_BT, "data")
    # others than GPUs add up one after the other as it is
    found_BTD = summed_rows(mesh, table_VD, tokens_BT) if sharding.platform(mesh) == "gpu" else table_VD[tokens_BT]
    return sharding.rows(mesh, sharding.laid_out(mesh, found_BTD, "data", None, "fsdp"))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_rows(mesh: Mesh | None, table_VD: Array, tokens_BT: Array) -> Array:
    """Returns rows whose gradient is summed in one order, in float32.

    A GPU would add up those of a token in the order in which its threads come by, so that no run is like the one
    before; XLA's own way to an order sorts every element, as long as half a step.
    """
    return table_VD[tokens_BT]


def summed_rows_forward(mesh: Mesh | None, table_VD: Array, tokens_BT: Array) -> tuple[Array, tuple[Array, Array]]:
    # the table's size must be known without the table itself: an array of no columns says it
    return table_VD[tokens_BT], (tokens_BT, table_VD[:, :0])


def summed_rows_backward(mesh: Mesh | None, kept: tuple[Array, Array], g_BTD: Array) -> tuple[Array, None]:
    tokens_BT, table = kept
    groups = sharding.parts(mesh, "data")
    tokens_GR = sharding.laid_out(mesh, tokens_BT.reshape(groups, -1), "data")
    g_GRD = sharding.laid_out(mesh, g_BTD.reshape(groups, -1, g_BTD.shape[-1]), "data", None, "fsdp")
    sums_GVD = jax.vmap(partial(summed_by_token, vocab_rows=len(table)))(tokens_GR, g_GRD)
    return jnp.sum(sums_GVD, axis=0).astype(table.dtype), None


summed_rows.defvjp(summed_rows_forward, summed_rows_backward)


def summed_by_token(tokens_R: Array, g_RD: Array, vocab_rows: int) -> Array:
    """Returns for each token of the vocabulary the sum of its rows, g_VD, in float32, always added in the same order.

    Sorted, the rows of a token are neighbours; a scan that begins anew where a token does leaves their sum at its last.
    """
    order_R = jnp.argsort(tokens_R, stable=True)
    sorted_R = tokens_R[order_R]
    edges = sorted_R[1:] != sorted_R[:-1]
    begins_R, ends_R = (jnp.concatenate(parts) for parts in ((jnp.array([True]), edges), (edges, jnp.array([True]))))

    def add(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
        begun = after[0]
        return before[0] | begun, jnp.where(begun[:, None], after[1], before[1] + after[1])

    _, sums_RD = jax.lax.associative_scan(add, (begins_R, g_RD[order_R].astype(jnp.float32)))
    # other rows go nowhere, each to a place of its own, so that none is written to twice
    places_R = jnp.where(ends_R, sorted_R, vocab_rows + jnp.arange(len(tokens_R)))
    zeros_VD = jnp.zeros((vocab_rows, g_RD.shape[-1]), jnp.float32)
    return zeros_VD.at[places_R].set(sums_RD, mode="drop", unique_indices=True)
