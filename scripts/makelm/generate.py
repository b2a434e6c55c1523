"""Lets a model write: all rows together, one token a step, with keys and values kept.

B rows, V vocabulary, P longest prompt, M tokens in all
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makelm.errors import UserError
from makelm.model import Parameters, Skeleton, empty_cache


@dataclass(frozen=True)
class Options:
    """How the next token is drawn."""

    temperature: float  # 0: always the likeliest
    top_k: int | None  # only the k likeliest
    top_p: float | None  # only the likeliest that together reach this probability (Holtzman et al. 2020)


def generate(
    skeleton: Skeleton,
    parameters: Parameters,
    prompts: list[list[int]],
    seeds: list[int],
    max_new_tokens: int,
    options: Options,
) -> list[list[int]]:
    """Returns up to max_new_tokens ids after each prompt (of at least one id).

    Row i draws from seeds[i]. Beyond the context the model sees the last context_length tokens; raises UserError
    where it has learned its positions, of which there are no more.
    """
    lengths = [len(prompt) for prompt in prompts]
    assert min(lengths) > 0, "a prompt needs at least one token"
    prompts_BP = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        prompts_BP[row, : len(prompt)] = prompt
    total, context = max(lengths) + max_new_tokens, skeleton.shape.context_length
    if skeleton.shape.positions.kind == "learned" and total > context:
        raise UserError(
            f"sample: a prompt of {max(lengths)} tokens and {max_new_tokens} new ones are more than the {context}"
            " positions this model has learned; lower sample.max_new_tokens"
        )
    keys_B = jnp.stack([jax.random.key(seed) for seed in seeds])
    written_BM = np.asarray(decode(skeleton, total, options, parameters, prompts_BP, np.array(lengths), keys_B))
    return [written_BM[row, n : n + max_new_tokens].tolist() for row, n in enumerate(lengths)]


@partial(jax.jit, static_argnums=(0, 1, 2))
def decode(
    skeleton: Skeleton, total: int, options: Options, parameters: Parameters, prompts_BP, lengths_B, keys_B
) -> Array:
    """Returns tokens_BM: each row's prompt, then what the model writes."""
    model = skeleton(parameters)
    B, P = prompts_BP.shape

    def step(carry, position):
        tokens_B, cache = carry
        logits_BV, cache = model.decode(tokens_B, position, cache)
        known_BV = logits_BV[:, : skeleton.vocab_size]  # the rest fills the vocabulary up
        drawn_B = jax.vmap(draw, in_axes=(0, 0, None, None))(known_BV, keys_B, position, options)
        given_B = prompts_BP[:, jnp.minimum(position + 1, P - 1)]
        next_B = jnp.where(position + 1 < lengths_B, given_B, drawn_B).astype(jnp.int32)
        return (next_B, cache), next_B

    start = (jnp.asarray(prompts_BP)[:, 0], empty_cache(skeleton.shape, B, skeleton.shape.context_length))
    _, rest_MB = jax.lax.scan(step, start, jnp.arange(total - 1))
    return jnp.concatenate([prompts_BP[:, :1], rest_MB.T], axis=1)


def draw(logits_V: Array, key: Array, position: Array, options: Options) -> Array:
    """Returns a token id drawn from one row of logits."""
    if options.temperature == 0:
        return jnp.argmax(logits_V)
    return jax.random.categorical(jax.random.fold_in(key, position), restrict(logits_V, options))


def restrict(logits_V: Array, options: Options) -> Array:
    """Returns logits at the temperature, with -inf where top_k or top_p rule a token out; ties stay in."""
    logits_V = logits_V / options.temperature
    if options.top_k is not None:
        least = jax.lax.top_k(logits_V, min(options.top_k, logits_V.shape[0]))[0][-1]
        logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
    if options.top_p is not None:
        sorted_V = jnp.sort(logits_V, descending=True)
        before_V = jnp.cumsum(jax.nn.softmax(sorted_V)) - jax.nn.softmax(sorted_V)
        # the token that crosses the bound stays, so there is always one
        least = jnp.min(jnp.where(before_V < options.top_p, sorted_V, jnp.inf))
        logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
    return logits_V
