"""How a token is drawn: each row by options of its own, which are arrays, so that other ones compile nothing anew.

Nothing is sorted: which tokens top_k and top_p leave is found by halving the range of logits, and the one that is drawn
by sums of probabilities. On a CPU that takes a tenth of the time.

B rows, V vocabulary, A alternatives, X blocks of the vocabulary, Y tokens of a block
"""

from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LOWEST = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Options:
    """How one text is written on. None: not done."""

    max_new_tokens: int
    temperature: float  # 0: always the likeliest
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the likeliest that together reach this probability (Holtzman et al. 2020)
    min_p: float | None = None  # only what has this share of the likeliest one's probability (Nguyen et al. 2024)
    repetition_penalty: float | None = None  # on what stands in the prompt or was written (Keskar et al. 2019)
    seed: int = 0
    stop: tuple[str, ...] = ()  # strings before which the text ends
    logprobs: int = 0  # alternatives that are kept beside each token
    ends: bool = True  # whether the end-of-text token ends the text


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawing:
    """The options of rows; a number that changes nothing stands for None."""

    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    min_p_B: Array
    penalty_B: Array


class Needs(NamedTuple):
    """What at least one row asks for: the rest is not compiled, so it takes no time."""

    draws: bool
    restricts: bool
    penalizes: bool
    alternatives: int  # the most of any row


def needs(options: list[Options], vocab_size: int) -> Needs:
    """Returns what these rows need; no more alternatives than there are tokens."""
    drawn = [each for each in options if each.temperature > 0]
    return Needs(
        draws=bool(drawn),
        restricts=any((each.top_k, each.top_p, each.min_p) != (None, None, None) for each in drawn),
        penalizes=any(each.repetition_penalty is not None for each in options),
        alternatives=min(max((each.logprobs for each in options), default=0), vocab_size),
    )


def row(options: Options, vocab_size: int) -> Drawing:
    """Returns the options of one row, without the dim B."""

    def given(value: float | None, nothing: float) -> float:
        return nothing if value is None else value

    return Drawing(
        temperature_B=np.float32(options.temperature),
        top_k_B=np.int32(min(given(options.top_k, vocab_size), vocab_size)),
        top_p_B=np.float32(given(options.top_p, 1)),
        min_p_B=np.float32(given(options.min_p, 0)),
        penalty_B=np.float32(given(options.repetition_penalty, 1)),
    )


def draw(logits_BV: Array, seen_BV: Array, u_B: Array, drawing: Drawing, needed: Needs) -> Array:
    """Returns a token id for each row, drawn by a number from 0 to 1; `seen_BV` are the tokens it has had already."""
    if needed.penalizes:
        logits_BV = penalize(logits_BV, seen_BV, drawing.penalty_B[:, None])
    likeliest_B = jnp.argmax(logits_BV, axis=-1)
    if not needed.draws:
        return likeliest_B
    greedy_B = drawing.temperature_B == 0
    logits_BV = logits_BV / jnp.where(greedy_B, 1, drawing.temperature_B)[:, None]
    if needed.restricts:
        logits_BV = restrict(logits_BV, drawing)
    return jnp.where(greedy_B, likeliest_B, pick(shares(logits_BV), u_B))


def penalize(logits_BV: Array, seen_BV: Array, penalty_B1: Array) -> Array:
    """Returns logits in which what was seen is less likely, whichever sign its logit has."""
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def shares(logits_BV: Array) -> Array:
    """Returns probabilities as shares of the likeliest one's, which is 1."""
    return jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True))


def restrict(logits_BV: Array, drawing: Drawing) -> Array:
    """Returns logits with -inf where top_k, top_p or min_p rule a token out; one as likely as the last that stays does.

    top_p looks at what top_k has left.
    """
    order_BV, top_p_B1 = ordered(logits_BV), drawing.top_p_B[:, None]

    def least_if(asked_B: Array, weights_BV: Array, enough_B1: Array) -> Array:
        # each of its steps is a pass over the vocabulary: not for rows none of which asks
        found = partial(least, order_BV, weights_BV, enough_B1)
        return jax.lax.cond(jnp.any(asked_B), found, lambda: jnp.full_like(order_BV[:, :1], LOWEST))

    top_k_B = drawing.top_k_B
    kth_B1 = least_if(top_k_B < logits_BV.shape[1], jnp.ones_like(logits_BV), top_k_B[:, None].astype(jnp.float32))
    logits_BV = jnp.where(order_BV >= kth_B1, logits_BV, -jnp.inf)
    shares_BV = shares(logits_BV)
    last_B1 = least_if(drawing.top_p_B < 1, shares_BV, top_p_B1 * jnp.sum(shares_BV, axis=-1, keepdims=True))
    # so little of all that it is rounded to 0 is reached by none: the likeliest has it
    last_B1 = jnp.minimum(last_B1, jnp.max(order_BV, axis=-1, keepdims=True))
    # sums of rounded numbers say nothing about all of them
    stays_BV = ((order_BV >= last_B1) | (top_p_B1 >= 1)) & (shares_BV >= drawing.min_p_B[:, None])
    return jnp.where(stays_BV, logits_BV, -jnp.inf)


def ordered(x: Array) -> Array:
    """Returns whole numbers (int32) in the same order as floats, equal where these are equal."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.int32)  # -0.0 is 0.0
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def least(order_BV: Array, weights_BV: Array, enough_B1: Array) -> Array:
    """Returns the highest number in the order such that the tokens from there on have together enough weight."""

    def reached(bound_B1: Array) -> Array:
        return jnp.sum(jnp.where(order_BV >= bound_B1, weights_BV, 0), axis=-1, keepdims=True) >= enough_B1

    def halve(number: Array, bound_B1: Array) -> Array:
        higher_B1 = bound_B1 + (jnp.int32(1 << 30) >> number)
        return jnp.where(reached(higher_B1), higher_B1, bound_B1)

    zero_B1 = jnp.zeros_like(order_BV[:, :1])
    return jax.lax.fori_loop(0, 31, halve, jnp.where(reached(zero_B1), 0, LOWEST))


def pick(shares_BV: Array, u_B: Array) -> Array:
    """Returns the token at which the sum of shares passes u times their total: its block, then its place there."""
    B, V = shares_BV.shape
    Y = isqrt(V - 1) + 1
    X = -(-V // Y)
    shares_BXY = jnp.pad(shares_BV, ((0, 0), (0, X * Y - V))).reshape(B, X, Y)
    blocks_BX = jnp.sum(shares_BXY, axis=-1)
    block_B, rest_B = passed(blocks_BX, u_B * jnp.sum(blocks_BX, axis=-1))
    within_BY = jnp.take_along_axis(shares_BXY, block_B[:, None, None], axis=1)[:, 0]
    return block_B * Y + passed(within_BY, rest_B)[0]


def passed(parts_BX: Array, goal_B: Array) -> tuple[Array, Array]:
    """Returns the first part at which the sum passes the goal, never one of 0, and how far into it the goal is."""
    X = parts_BX.shape[-1]
    up_to_XX = jnp.triu(jnp.ones((X, X), parts_BX.dtype))
    sums_BX = jnp.matmul(parts_BX, up_to_XX, precision=jax.lax.Precision.HIGHEST)
    # a sum may be rounded to less than the goal: then the last part that is not 0 has it
    last_B = jnp.max(jnp.where(parts_BX > 0, jnp.arange(X)[None], 0), axis=-1)
    part_B = jnp.minimum(jnp.sum(sums_BX <= goal_B[:, None], axis=-1), last_B)
    before_BX = sums_BX - parts_BX
    return part_B, goal_B - jnp.take_along_axis(before_BX, part_B[:, None], axis=-1)[:, 0]


def logprobs(logits_BV: Array, tokens_B: Array, alternatives: int) -> tuple[Array, Array, Array]:
    """Returns what the model itself gives the tokens, logprobs_B, and the ids_BA and logprobs_BA of the likeliest."""
    total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    chosen_B = (jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1) - total_B1)[:, 0]
    values_BA, ids_BA = jax.lax.top_k(logits_BV, alternatives)
    return chosen_B, ids_BA, values_BA - total_B1
