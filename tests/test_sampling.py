"""Sampling: what top_k, top_p and min_p leave is what sorting leaves, and tokens come as often as they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from makelm import sampling
from makelm.sampling import Options

ALL = sampling.Needs(draws=True, restricts=True, penalizes=True, alternatives=0)


def rows(*options: Options, vocab_size: int) -> sampling.Drawing:
    return jax.tree.map(lambda *each: jnp.stack(each), *(sampling.row(one, vocab_size) for one in options))


def options(**changes) -> Options:
    return Options(**{"max_new_tokens": 1, "temperature": 1.0} | changes)


def left(logits_BV: np.ndarray, *chosen: Options) -> list[set[int]]:
    """Returns the tokens that each row's options leave."""
    kept_BV = sampling.restrict(jnp.asarray(logits_BV), rows(*chosen, vocab_size=logits_BV.shape[1]))
    return [set(np.flatnonzero(np.isfinite(kept_V)).tolist()) for kept_V in kept_BV]


def reference(logits_V: np.ndarray, chosen: Options) -> set[int]:
    """Returns what is left, by sorting; one as likely as the last that stays, stays."""
    values = np.sort(logits_V.astype(np.float64))[::-1]
    bound = values[min(chosen.top_k or len(values), len(values)) - 1]
    shares = np.where(values >= bound, np.exp(values - values[0]), 0)
    before = np.cumsum(shares / shares.sum()) - shares / shares.sum()
    if chosen.top_p not in (None, 1.0):
        bound = max(bound, values[before < chosen.top_p][-1])
    stay = (logits_V >= bound) & (np.exp(logits_V - values[0]) >= (chosen.min_p or 0))
    return set(np.flatnonzero(stay).tolist())


@pytest.mark.parametrize("vocab_size", [7, 65, 300])
def test_what_is_left_is_what_sorting_leaves(vocab_size):
    rng = np.random.default_rng(0)
    logits_BV = (3 * rng.standard_normal((40, vocab_size))).astype(np.float32)
    logits_BV[20:30] = np.round(logits_BV[20:30])  # with many ties, 0 and -0 among them
    logits_BV[30:, 0] = -50  # token 0 can be ruled out, and can be the only one
    logits_BV[35:, 0] = 50
    draws = {"top_k": [None, 1, 2, 5, vocab_size, 10**6], "top_p": [None, 0.01, 0.3, 0.9, 1.0], "min_p": [None, 0.05]}
    chosen = [options(**{key: rng.choice(values) for key, values in draws.items()}) for _ in logits_BV]
    expected = [reference(logits_V, one) for logits_V, one in zip(logits_BV, chosen, strict=True)]
    assert left(logits_BV, *chosen) == expected
    assert any(0 not in each for each in expected[30:35]) and {0} in expected[35:]


def test_top_p_and_top_k_keep_ties_and_can_rule_out_token_0():
    logits_1V = np.log(np.array([[0.1, 0.2, 0.2, 0.5]], np.float32))
    for changes, expected in (
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {1, 2, 3}),
        ({"top_p": 0.3}, {3}),
        ({"top_p": 0.6}, {1, 2, 3}),
        ({"top_p": 0.95}, {0, 1, 2, 3}),
        ({"min_p": 0.3}, {1, 2, 3}),
        ({"top_p": 1e-300}, {3}),  # 0 in float32
    ):
        assert left(logits_1V, options(**changes)) == [expected], changes
    assert left(-logits_1V, options(top_k=1)) == [{0}]


def drawn(logits_V: np.ndarray, count: int, chosen: Options) -> np.ndarray:
    """Returns how often each token is drawn in so many tries."""
    V = len(logits_V)
    one = rows(chosen, vocab_size=V)
    u_C1 = np.random.default_rng(0).random((count, 1), np.float32)
    seen_1V = jnp.zeros((1, V), bool)
    draw = jax.vmap(lambda u_1: sampling.draw(jnp.asarray(logits_V)[None], seen_1V, u_1, one, ALL))
    return np.bincount(np.asarray(jax.jit(draw)(u_C1))[:, 0], minlength=V)


@pytest.mark.parametrize("vocab_size", [4, 21])
def test_tokens_come_as_often_as_they_are_probable(vocab_size):
    share = np.random.default_rng(1).uniform(0.2, 1, vocab_size)
    share[[0, -1]] = 0.5, 0.01
    expected = 20_000 * share**2 / (share**2).sum()
    counts = drawn(np.log(share).astype(np.float32), 20_000, options(temperature=0.5))
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < {4: 16.3, 21: 45.3}[vocab_size]  # one in 1,000 with 3 and 20 degrees of freedom


def test_what_is_ruled_out_never_comes_and_greedy_takes_the_likeliest():
    logits_V = np.array([2.0, 0.0, 1.9, -1.0], np.float32)
    assert np.flatnonzero(drawn(logits_V, 2000, options(top_k=2))).tolist() == [0, 2]
    assert drawn(logits_V, 10, options(temperature=0)).tolist() == [10, 0, 0, 0]


@pytest.mark.parametrize("u", [0.0, 0.5, float(np.float32(1) - np.float32(2**-24))])
def test_a_share_of_nothing_is_never_picked(u):
    shares_BV = jnp.array([[0, 0, 0, 1e-7, 1, 0, 0, 0, 1e-7, 0.0], [1.0] + 9 * [0.0], 9 * [0.0] + [1.0]])
    picked = np.asarray(sampling.pick(shares_BV, jnp.full(3, u))).tolist()
    assert picked[0] in (3, 4, 8) and picked[1:] == [0, 9]


def test_a_penalty_lowers_what_was_seen_and_nothing_else():
    logits_1V, seen_1V = jnp.array([[2.0, -2.0, 1.0, -1.0]]), jnp.array([[True, True, False, False]])
    found = sampling.penalize(logits_1V, seen_1V, jnp.array([[2.0]]))
    assert found.tolist() == [[1.0, -4.0, 1.0, -1.0]]


def test_logprobs_are_those_of_the_model():
    logits_BV = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    expected = np.asarray(jax.nn.log_softmax(logits_BV))
    chosen, ids, values = sampling.logprobs(jnp.asarray(logits_BV), jnp.array([0, 5]), 3)
    np.testing.assert_allclose(chosen, expected[[0, 1], [0, 5]], rtol=1e-5)
    assert ids.tolist() == np.argsort(-expected)[:, :3].tolist()
    np.testing.assert_allclose(values, -np.sort(-expected)[:, :3], rtol=1e-5)


def test_only_what_a_row_asks_for_is_needed():
    greedy = options(temperature=0, top_p=0.5)
    assert sampling.needs([greedy], 5) == (False, False, False, 0)
    assert sampling.needs([greedy, options(top_k=3, logprobs=2)], 5) == (True, True, False, 2)
    assert sampling.needs([options(logprobs=9)], 5).alternatives == 5
