"""Sampling: greedy is greedy, rows are their own, and what top_k and top_p rule out never comes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import forward, random_parameters, shape

from makelm.generate import Options, draw, generate, restrict
from makelm.model import Skeleton

V = 40
MODEL = shape(context_length=16)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
GREEDY = Options(0, None, None)


def write(prompts, seeds, count, options):
    return generate(Skeleton(MODEL, V), random_parameters(MODEL, V), prompts, seeds, count, options)


def test_greedy_writes_the_likeliest_token_of_the_full_forward_pass():
    for prompt, written in zip(PROMPTS, write(PROMPTS, [0, 0, 0], 8, GREEDY), strict=True):
        assert len(written) == 8
        logits_TV = forward(MODEL, V, random_parameters(MODEL, V), np.array([prompt + written]))[0]
        assert logits_TV[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == written


def test_a_row_does_not_depend_on_its_neighbours_and_does_on_its_seed():
    options = Options(1.0, None, None)
    together = write(PROMPTS, [1, 2, 3], 8, options)
    assert write(PROMPTS[::-1], [3, 2, 1], 8, options) == together[::-1]
    assert write(PROMPTS, [1, 5, 3], 8, options)[1] != together[1]


def test_writing_goes_on_beyond_the_context():
    assert len(write([[1]], [0], 40, GREEDY)[0]) == 40


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (Options(1.0, 1, None), {3}),
        (Options(1.0, 2, None), {3, 1, 2}),  # a tie at the border stays in
        (Options(1.0, None, 0.3), {3}),
        (Options(1.0, None, 1.0), {0, 1, 2, 3}),
    ],
)
def test_restrict_keeps_the_likeliest(options, allowed):
    logits = jnp.log(jnp.array([0.1, 0.2, 0.2, 0.5]))
    assert set(np.flatnonzero(np.isfinite(restrict(logits, options))).tolist()) == allowed


def test_drawn_frequencies_are_the_probabilities():
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = jax.vmap(lambda n: draw(jnp.log(probabilities), jax.random.key(0), n, Options(1.0, None, None)))
    counts = np.bincount(drawn(jnp.arange(4000)), minlength=4)
    chi_square = ((counts - 4000 * probabilities) ** 2 / (4000 * probabilities)).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_temperature_flattens():
    logits = jnp.array([0.0, 1.0])
    cold, hot = (jax.nn.softmax(restrict(logits, Options(t, None, None)))[1] for t in (0.5, 2.0))
    assert cold > jax.nn.softmax(logits)[1] > hot
