"""What a prompt costs a model that is served: each token's log-probability, and what else could have stood there.

It is a forward pass of its own, which leaves the cache alone: no text is another one because a prompt was scored.

P positions read, R rows of them at a time, A alternatives, D model, V vocabulary
"""

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from makelm import sharding
from makelm.errors import UserError
from makelm.generate import NOT_FINITE, Alternatives, Engine
from makelm.loss import divided, rows_at_a_time
from makelm.model import Parameters, Skeleton, vocab_rows


@partial(jax.jit, static_argnums=(0, 1))
def score(
    skeleton: Skeleton, alternatives: int, parameters: Parameters, tokens_P: Array, targets_P: Array
) -> tuple[Array, ...]:
    """Returns the logits_P of the targets, which follow the tokens, the likeliest others_PA with their logits_PA, and
    the normalizers_P: what to subtract.

    The logits of a long prompt never exist all at once.
    """
    model = skeleton(parameters)
    x_PD = model.hidden(tokens_P[None])[0]
    rows = rows_at_a_time(sharding.platform(skeleton.mesh), vocab_rows(skeleton.shape, skeleton.vocab_size))
    split = partial(divided, filler=0, parts=-(-len(tokens_P) // rows))

    def part(given: tuple[Array, Array]) -> tuple[Array, ...]:
        x_RD, targets_R = given
        logits_RV = model.logits(x_RD[None])[0]
        hit_R = jnp.take_along_axis(logits_RV, targets_R[:, None], axis=-1)[:, 0]
        # rows that fill the vocabulary up have their share, as they have in the scores of the stages
        values_RA, others_RA = jax.lax.top_k(logits_RV[:, : skeleton.vocab_size], alternatives)
        return hit_R, others_RA, values_RA, jax.nn.logsumexp(logits_RV, axis=-1)

    found = jax.lax.map(part, (split(x_PD), split(targets_P)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(tokens_P)], found)


class PromptScorer:
    """Scores prompts of an engine, each by itself, filled up to the same lengths as where they are read."""

    def __init__(self, engine: Engine, alternatives: int):
        self.engine, self.alternatives = engine, alternatives
        self.programs: dict[int, jax.stages.Compiled] = {}  # by the positions that are read

    def missing(self, prompts: Iterable[Sequence[int]]) -> set[int]:
        """Returns the lengths of which there is no program yet."""
        return {self.engine.read_length(prompt) for prompt in prompts} - self.programs.keys()

    def compile(self, lengths: Iterable[int]) -> None:
        """Compiles programs. Any thread may, one at a time."""
        for length in lengths:
            tokens = jax.ShapeDtypeStruct((length,), np.int32)
            lowered = score.lower(self.engine.skeleton, self.alternatives, self.engine.parameters, tokens, tokens)
            self.programs[length] = lowered.compile()

    def __call__(self, prompt: Sequence[int]) -> tuple[list[float | None], list[Alternatives]]:
        """Returns the log-probability of each token and its alternatives; of the first one nothing is known."""
        length, count = self.engine.read_length(prompt), len(prompt) - 1
        self.compile(self.missing([prompt]))
        tokens_P, targets_P = np.zeros((2, length), np.int32)
        tokens_P[:count], targets_P[:count] = prompt[:-1], prompt[1:]
        found = jax.device_get(self.programs[length](self.engine.parameters, tokens_P, targets_P))
        logits_P, others_PA, logits_PA, normalizers_P = (each[:count] for each in found)
        # subtracted here, where nothing rounds one otherwise than the other: clients compare them
        logprobs_P, logprobs_PA = logits_P - normalizers_P, logits_PA - normalizers_P[:, None]
        if not np.isfinite(logprobs_P).all():
            raise UserError(NOT_FINITE)
        rows = zip(others_PA.tolist(), logprobs_PA.tolist(), strict=True)
        return [None, *logprobs_P.tolist()], [(), *(tuple(zip(*row, strict=True)) for row in rows)]
