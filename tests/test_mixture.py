"""A mixture is exact to one sequence over any prefix, and any place of it is found without what comes before."""

import itertools

import numpy as np
import pytest

from makelm.config_mixture import PARTS
from makelm.mixture import Mixture, combined

WEIGHTS = [
    [1.0],
    [0.7, 0.3],
    [0.5, 0.5],
    [1 / 3, 1 / 3, 1 / 3],
    [1 / 7, 6 / 7],
    [0.999, 0.001],
    [0.1, 0.2, 0.3, 0.4],
    [0.45, 0.45, 0.05, 0.05],
    [0.0333, 0.0667, 0.9],
    [*[0.01] * 40, 0.6],
]
# parts of which taking whoever is furthest behind, the usual rule, goes off by one or more
HARD = [[6, 6, 6, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 8, 11, 11, 8, 1], [7, 3, 11, 4, 1, 11, 11, 5, 2, 11]]


@pytest.mark.parametrize("weights", [*WEIGHTS, *([part / sum(parts) for part in parts] for parts in HARD)])
def test_every_prefix_is_exact_to_one_sequence(weights):
    mixture = Mixture(weights)
    places = np.arange(max(3000, 2 * mixture.period + 1))
    sources, own = mixture(places)
    counts = np.cumsum(sources[:, None] == np.arange(len(weights))[None, :], axis=0)
    assert np.abs(counts - (places + 1)[:, None] * np.array(weights)[None, :]).max() < 1
    # what came before of the same source: its sequences are numbered without a gap
    np.testing.assert_array_equal(own, counts[places, sources] - 1)


def test_random_weights_are_exact_too():
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = rng.integers(1, 40, rng.integers(2, 8))
        mixture = Mixture([float(part) / float(parts.sum()) for part in parts])
        sources, _ = mixture(np.arange(mixture.period))
        counts = np.cumsum(sources[:, None] == np.arange(len(parts))[None, :], axis=0)
        shares = np.arange(1, mixture.period + 1)[:, None] * (parts / parts.sum())[None, :]
        assert np.abs(counts - shares).max() < 1 - 1e-9


def test_a_place_far_out_is_found_at_once_and_counts_are_those_of_the_order():
    mixture = Mixture([0.7, 0.2, 0.1])
    sources, own = mixture(np.array([10**15 + 3]))
    near, before = mixture(np.array([3]))
    assert sources == near and own == 10**14 * round(10 * [0.7, 0.2, 0.1][near[0]]) + before
    for count in (0, 1, 9, 10, 11, 12345):
        order, _ = mixture(np.arange(count))
        assert mixture.counts(count) == np.bincount(order, minlength=3).tolist()


def test_the_finest_weights_there_may_be_are_exact():
    mixture = Mixture([1 / PARTS, 1 - 1 / PARTS])
    assert mixture.period == PARTS and mixture.counts(PARTS) == [1, PARTS - 1]


def test_the_loss_of_a_mixture_is_the_mean_by_tokens():
    losses = {"a": {"validation_loss": 2.0, "validation_loss_sem": 0.3}}
    losses["b"] = {"validation_loss": 4.0, "validation_loss_sem": 0.4}
    found = combined(losses, {"a": 0.75, "b": 0.25})
    assert found["validation_loss"] == 2.5
    assert found["validation_loss_sem"] == pytest.approx(np.hypot(0.225, 0.1))


def test_a_source_comes_as_evenly_as_can_be():
    sources, _ = Mixture([0.7, 0.3])(np.arange(100))
    runs = [len(list(group)) for source, group in itertools.groupby(sources.tolist()) if source == 0]
    assert max(runs) <= 3
