"""The order of training is a function of (seed, step), and an epoch holds every window once."""

import numpy as np
import pytest

from makelm.batches import Batches
from makelm.errors import UserError

SHARDS = [np.arange(0, 101, dtype=np.uint16), np.arange(1000, 1045, dtype=np.uint16), np.arange(3, dtype=np.uint16)]
VOCABULARY = 1045
WINDOWS = 10 + 4  # of 10 tokens and one more to predict; the third shard is too short for one


def test_a_batch_depends_on_seed_and_step_alone():
    one, same, other = (Batches(SHARDS, VOCABULARY, 10, 3, seed) for seed in (7, 7, 8))
    late = same(29)  # asked for first, and out of order
    np.testing.assert_array_equal(late, one(29))
    np.testing.assert_array_equal(one(0), same(0))
    assert (np.concatenate([one(s) for s in range(4)]) != np.concatenate([other(s) for s in range(4)])).any()


def test_an_epoch_holds_each_window_once_and_the_next_another_order():
    batches = Batches(SHARDS, VOCABULARY, 10, 7, 0)
    assert batches.windows == WINDOWS
    epochs = [np.concatenate([batches(2 * epoch), batches(2 * epoch + 1)])[:, 0].tolist() for epoch in range(2)]
    expected = [*range(0, 100, 10), *range(1000, 1040, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1]


def test_a_window_is_a_stretch_of_one_shard_with_the_token_to_predict():
    for window in Batches(SHARDS, VOCABULARY, 10, 14, 0)(0):
        np.testing.assert_array_equal(window, np.arange(window[0], window[0] + 11))
        assert window.dtype == np.int32


def test_data_shorter_than_one_window_is_refused_by_name():
    with pytest.raises(UserError, match=r"model\.context_length: 200 is longer than the training data"):
        Batches(SHARDS, VOCABULARY, 200, 1, 0)


def test_rows_are_those_of_the_batch_and_nothing_else_is_read():
    batches, read = Batches(SHARDS, VOCABULARY, 10, 6, 0), []
    window = batches.window
    batches.window = lambda position: read.append(position) or window(position)
    np.testing.assert_array_equal(batches.rows(3, 2, 5), Batches(SHARDS, VOCABULARY, 10, 6, 0)(3)[2:5])
    assert read == [20, 21, 22]


def test_a_token_outside_the_vocabulary_is_found_before_it_is_trained_on():
    with pytest.raises(UserError, match=r"^the batch of step 1 has the token id 1040, outside the vocabulary of 1040"):
        Batches(SHARDS, 1040, 10, 14, 0)(0)
