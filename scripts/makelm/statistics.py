"""Numbers of every tensor, to see where a training goes wrong: rms of gradients, weights and updates, attention logits.

B batch, T position, L layers
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def of_tensors(
    parameters: dict[str, Array], gradients: dict[str, Array], updates: dict[str, Array]
) -> dict[str, Array]:
    """Returns the root mean square of each parameter, of its gradient and of what a step adds to it."""
    parts = {"weight": parameters, "gradient": gradients, "update": updates}
    return {f"{part}_rms/{name}": rms(leaf) for part, tree in parts.items() for name, leaf in tree.items()}


def rms(leaf: Array) -> Array:
    """Returns the root mean square of a tensor."""
    return jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))


def of_attention(model: Any, tokens_BT: Array) -> dict[str, Array]:
    """Returns the largest attention logit of each layer; above about 10,000 trainings of many sizes diverge.

    Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities.
    """
    largest_L = model.largest_logits(tokens_BT)
    return {f"largest_attention_logit/{layer:02d}": value for layer, value in enumerate(largest_L)}


def one_row_each(windows_BT: Array, groups: int) -> Array:
    """Returns the first row of each group of devices: attention logits of more would not fit."""
    return jax.lax.slice_in_dim(windows_BT, 0, windows_BT.shape[0], windows_BT.shape[0] // groups)
