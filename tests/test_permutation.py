"""A shuffle without a table: one to one, another for each seed and epoch, and as well mixed as NumPy's."""

import numpy as np
import pytest

from makelm.permutation import Permutation

SIZES = [*range(1, 130), *(2**n + d for n in range(8, 12) for d in (-1, 0, 1)), 961, 1000, 1999, 2000]
LARGE = 10**9 + 7


def order(size: int, epoch: int = 0, seed: int = 0, name: str = "mine") -> np.ndarray:
    return Permutation(size, seed, name)(np.full(size, epoch), np.arange(size))


def test_each_number_comes_once():
    for size in SIZES:
        for epoch in (0, 1):
            np.testing.assert_array_equal(np.sort(order(size, epoch)), np.arange(size), f"{size}")


def test_of_a_billion_none_comes_twice_and_all_are_within():
    places = np.random.default_rng(0).choice(LARGE, 200_000, replace=False)
    numbers = Permutation(LARGE, 0, "mine")(np.zeros(len(places), int), places)
    assert numbers.min() >= 0 and numbers.max() < LARGE
    assert len(np.unique(numbers)) == len(np.unique(places))


def test_a_place_does_not_depend_on_what_else_is_asked_for():
    permutation, places = Permutation(1001, 7, "mine"), np.array([1000, 0, 500, 3, 3])
    epochs = np.array([2, 0, 1, 9, 9])
    alone = [int(permutation(epochs[[i]], places[[i]])[0]) for i in range(5)]
    assert permutation(epochs, places).tolist() == alone


def test_the_endless_order_is_that_of_one_epoch_after_the_other():
    for size in (1, 7, 1000, 1024, 3000):
        permutation, places = (
            Permutation(size, 3, "mine"),
            np.array([2 * size, 0, size - 1, size, 5 * size + 1, 10**12]),
        )
        epochs, numbers = permutation.endless(places)
        np.testing.assert_array_equal(epochs, places // size)
        np.testing.assert_array_equal(numbers, permutation(places // size, places % size))


def test_many_orders_that_are_asked_in_turns_compute_their_places_once():
    orders, asked = [Permutation(10**6, seed, "mine") for seed in range(5)], []
    for permutation in orders:
        permutation.once = lambda *given, once=permutation.once: asked.append(len(given[1])) or once(*given)
    for step in range(4):
        for permutation in orders:
            permutation.endless(np.arange(8 * step, 8 * step + 8))
    assert sum(asked) < 2 * 1024 * len(orders)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"name": "yours"}])
def test_another_epoch_seed_or_name_is_another_order(other):
    assert np.mean(order(1000) == order(1000, **other)) < 0.01


@pytest.mark.parametrize("size", [17, 64, 100, 257, 1000])
def test_it_is_as_well_mixed_as_numpys(size):
    """Steps from one number to the next, and what stands at a place, are as even over epochs as by chance."""
    epochs = 100_000 // size
    ours = Permutation(size, 1, "mine")(np.repeat(np.arange(epochs), size), np.tile(np.arange(size), epochs))
    rng = np.random.default_rng(0)
    theirs = np.concatenate([rng.permutation(size) for _ in range(epochs)])
    for numbers in (ours.reshape(epochs, size), theirs.reshape(epochs, size)):
        assert deviation(np.diff(numbers, axis=1) % size, np.arange(1, size)) < 5
        assert deviation(np.diff(numbers, axis=0) % size, np.arange(size)) < 5
        for place in (0, 1, size // 2, size - 1):
            assert deviation(numbers[:, place], np.arange(size)) < 5


def deviation(found: np.ndarray, values: np.ndarray) -> float:
    """Returns how many standard deviations chi-square is above what equally likely values give."""
    counts = np.bincount(found.ravel(), minlength=int(values[-1]) + 1)[values]
    expected, freedom = counts.sum() / len(values), len(values) - 1
    return float((np.sum((counts - expected) ** 2 / expected) - freedom) / np.sqrt(2 * freedom))
