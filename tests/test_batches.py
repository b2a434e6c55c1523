"""The order of training is a function of (seed, step), and an epoch predicts every token once."""

from collections import Counter

import numpy as np
import pytest

from makelm.batches import Batches
from makelm.errors import UserError
from makelm.loss import NONE

# 149 different tokens in shards of which some are short or empty
SIZES = [101, 0, 1, 44, 3]
SHARDS = [np.arange(sum(SIZES[:n]), sum(SIZES[: n + 1]), dtype=np.uint16) for n in range(len(SIZES))]
TOKENS = sum(SIZES)


def make(shards=SHARDS, length=10, batch=3, order="shuffled", seed=0, vocab=TOKENS, end=None) -> Batches:
    return Batches({"mine": shards}, {"mine": 1.0}, vocab, end, length, batch, order, seed)


def targets(batches: Batches, first: int, last: int) -> Counter:
    """Returns how often each token is predicted by the sequences first to last."""
    windows_BT = batches.windows(np.arange(first, last))
    return Counter(windows_BT[:, 1:][windows_BT[:, 1:] != NONE].tolist())


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_a_batch_depends_on_seed_and_step_alone(order):
    one, same, other = (make(seed=seed, order=order) for seed in (7, 7, 8))
    late = same(29)  # asked for first, and out of order
    np.testing.assert_array_equal(late, one(29))
    np.testing.assert_array_equal(one(0), same(0))
    assert (np.concatenate([one(s) for s in range(4)]) != np.concatenate([other(s) for s in range(4)])).any()


@pytest.mark.parametrize("length", [1, 7, 10, 37, 74, 148])
def test_each_epoch_predicts_every_token_exactly_once(length):
    batches = make(length=length)
    windows = -(-TOKENS // length)
    for epoch in range(4):
        assert targets(batches, epoch * windows, (epoch + 1) * windows) == Counter(range(TOKENS)), epoch
    assert batches.epochs(21 * length) == {"mine": 21 / windows}


def test_epochs_have_other_orders_and_cut_the_text_at_other_places():
    batches = make(length=10)
    first, second = (batches.windows(np.arange(15 * epoch, 15 * epoch + 15))[:, 0] for epoch in range(2))
    assert first.tolist() != second.tolist()
    assert set(first % 10) != set(second % 10)


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_a_window_is_a_stretch_of_the_shards_as_one_ring(order):
    for window in make(batch=60, order=order)(0):
        assert window.dtype == np.int32
        there = window[window != NONE]
        np.testing.assert_array_equal(there, (there[0] + np.arange(len(there))) % TOKENS)
        assert len(there) == len(window) or order == "shuffled"


def test_random_windows_begin_anywhere_but_do_not_cross_the_end():
    windows_BT = make(batch=20_000, order="random")(0)
    counts = np.bincount(windows_BT[:, 0], minlength=TOKENS)
    assert (counts[: TOKENS - 10] > 0).all() and not counts[TOKENS - 10 :].any()
    expected = 20_000 / (TOKENS - 10)
    assert np.sum((counts[: TOKENS - 10] - expected) ** 2 / expected) < TOKENS + 5 * np.sqrt(2 * TOKENS)
    assert make(order="random").epochs(3000)["mine"] == pytest.approx(3000 / TOKENS)


def test_a_mixture_takes_each_sources_own_order_by_weight():
    sources = {"a": SHARDS, "b": [np.arange(1000, 1050, dtype=np.uint16)]}
    batches = Batches(sources, {"a": 0.7, "b": 0.3}, 2000, None, 10, 10, "shuffled", 0)
    windows_BT = batches.windows(np.arange(150))
    of_b = windows_BT[:, 1] >= 1000
    assert abs(np.cumsum(of_b) - 0.3 * np.arange(1, 151)).max() < 1
    alone = Batches({"b": sources["b"]}, {"b": 1.0}, 2000, None, 10, 10, "shuffled", 0)
    np.testing.assert_array_equal(windows_BT[of_b], alone.windows(np.arange(45)))
    assert batches.epochs(1500) == {"a": 105 / 15, "b": 45 / 5}


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_sources_of_the_same_tokens_come_in_orders_of_their_own(order):
    batches = Batches({"a": SHARDS, "b": SHARDS}, {"a": 0.5, "b": 0.5}, TOKENS, None, 10, 30, order, 0)
    one, two = (own.windows(np.arange(15)).tolist() for own in batches.orders)
    assert one != two


def test_data_shorter_than_one_window_is_refused_by_name():
    with pytest.raises(UserError, match=r"model\.context_length: 149 is longer than the training data of mine \(149"):
        make(length=149)


def test_rows_are_those_of_the_batch_and_nothing_else_is_read():
    batches, read = make(batch=6), []
    windows = batches.orders[0].windows
    batches.orders[0].windows = lambda places: read.extend(places.tolist()) or windows(places)
    np.testing.assert_array_equal(batches.rows(3, 2, 5), make(batch=6)(3)[2:5])
    assert read == [20, 21, 22]


def test_a_token_outside_the_vocabulary_is_found_before_it_is_trained_on():
    with pytest.raises(UserError, match=r"^the batch of step 1 has the token id 148, outside the vocabulary of 148"):
        make(batch=15, vocab=148)(0)
