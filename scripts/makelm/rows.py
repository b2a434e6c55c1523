"""Where each text is on the devices, and the two programs that move it on: one takes prompts in, one writes a chunk.

B slots, R rows read at once, V vocabulary, P positions read, C chunk, A alternatives
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makelm import decoding, sampling, sharding
from makelm.decoding import Cache, Places
from makelm.model import Parameters, Skeleton
from makelm.sampling import Drawing, Needs, Options


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Where each slot is."""

    token_B: Array  # to be read next
    position_B: Array  # of that token
    begin_B: Array  # where the document begins that it is in
    count_B: Array  # tokens written
    limit_B: Array  # tokens to write
    ends_B: Array  # whether the end-of-text token ends the text
    done_B: Array
    seen_BV: Array  # tokens of the prompt or written
    drawing: Drawing


def empty_rows(skeleton: Skeleton, batch: int) -> Rows:
    """Returns the rows of slots that no text is in."""
    zeros_B = np.zeros(batch, np.int32)
    false_B, ones_B = zeros_B.astype(bool), zeros_B.astype(np.float32) + 1
    seen_BV = np.zeros((batch, skeleton.vocab_size), bool)
    drawing = Drawing(0 * ones_B, zeros_B + 1, ones_B, 0 * ones_B, ones_B)
    rows = Rows(zeros_B, zeros_B, zeros_B, zeros_B, zeros_B, false_B, ~false_B, seen_BV, drawing)
    return jax.jit(partial(settled, skeleton))(rows)


def settled(skeleton: Skeleton, rows: Rows) -> Rows:
    """Returns rows that lie on the devices as those of the cache do."""
    return jax.tree.map(lambda x: sharding.laid_out(skeleton.mesh, x, decoding.ROWS), rows)


def first_row(vocab_size: int, seen: Sequence[int], read: list[int], begin: int, options: Options) -> Rows:
    """Returns the row of a text whose prompt is read but for its last token, without the dim B."""
    seen_V = np.zeros(vocab_size, bool)
    seen_V[list(seen)] = True
    numbers = map(np.int32, (read[-1], len(read) - 1, begin, 0, options.max_new_tokens))
    return Rows(*numbers, np.bool_(options.ends), np.False_, seen_V, sampling.row(options, vocab_size))


@partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def take_in(
    skeleton: Skeleton,
    parameters: Parameters,
    cache: Cache,
    rows: Rows,
    slot_R: Array,
    tokens_RP: Array,
    new: Rows,
) -> tuple[Cache, Rows]:
    """Returns cache and rows with prompts in their slots; the `new` rows have the dim R for B. No slot has number B."""
    prompts = decoding.read(skeleton(parameters), tokens_RP)
    rows = jax.tree.map(lambda all_B, new_R: all_B.at[slot_R].set(new_R, mode="drop"), rows, new)
    return decoding.insert(skeleton, cache, prompts, slot_R), settled(skeleton, rows)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def write(
    skeleton: Skeleton, how: tuple, parameters: Parameters, cache: Cache, rows: Rows, live_B: Array, u_CB: Array
) -> tuple[Cache, Rows, tuple[Array, ...]]:
    """Returns cache and rows after a chunk of tokens, and ids_BC, logprobs_BC, others_BCA, logprobs_BCA of it.

    `how` is (positions looked at, tokens of a chunk, needs, end-of-text token). What stands behind the end of a row's
    text means nothing.
    """
    width, size, needed, end_of_text = how
    model, B, length = skeleton(parameters), live_B.shape[0], cache.keys_BKSH[0].shape[2]
    looked, start_B = decoding.looked_at(cache, width), rows.position_B

    def step(carry: tuple) -> tuple:
        number, rows, chunk, found = carry
        if model.end_of_text is not None:
            begin_B = jnp.where(rows.token_B == model.end_of_text, rows.position_B, rows.begin_B)
            rows = replace(rows, begin_B=begin_B)
        places = Places(start_B, rows.position_B, rows.begin_B)
        logits_BV, chunk = decoding.step(model, rows.token_B, places, number, looked, length, chunk)
        known_BV = logits_BV[:, : skeleton.vocab_size]  # the rest fills the vocabulary up
        next_B = sampling.draw(known_BV, rows.seen_BV, u_CB[number], rows.drawing, needed).astype(jnp.int32)
        new = (next_B, *sampling.logprobs(known_BV, next_B, needed.alternatives))
        found = tuple(all_BC.at[:, number].set(one_B) for all_BC, one_B in zip(found, new, strict=True))
        return number + 1, advanced(rows, next_B, end_of_text, needed), chunk, found

    def goes_on(carry: tuple) -> Array:
        return (carry[0] < size) & ~jnp.all(carry[1].done_B)

    ids_BC, logprobs_BC = jnp.zeros((B, size), jnp.int32), jnp.zeros((B, size))
    found = ids_BC, logprobs_BC, *(jnp.repeat(x[..., None], needed.alternatives, 2) for x in (ids_BC, logprobs_BC))
    chunk = decoding.empty_cache(skeleton, B, size)
    rows = replace(rows, done_B=rows.done_B | ~live_B)
    _, rows, chunk, found = jax.lax.while_loop(goes_on, step, (0, rows, chunk, found))
    return decoding.keep(skeleton, cache, chunk, start_B), settled(skeleton, rows), found


def advanced(rows: Rows, next_B: Array, end_of_text: int | None, needed: Needs) -> Rows:
    """Returns rows after one more token; those that are done stay."""
    moves_B = ~rows.done_B
    count_B = rows.count_B + moves_B
    ended_B = count_B >= rows.limit_B
    if end_of_text is not None:
        ended_B = ended_B | (rows.ends_B & (next_B == end_of_text))
    seen_BV = rows.seen_BV
    if needed.penalizes:
        seen_BV = seen_BV | (next_B[:, None] == jnp.arange(seen_BV.shape[1])[None])
    return replace(
        rows,
        token_B=jnp.where(moves_B, next_B, rows.token_B),
        position_B=rows.position_B + moves_B,
        count_B=count_B,
        done_B=rows.done_B | ended_B,
        seen_BV=seen_BV,
    )
