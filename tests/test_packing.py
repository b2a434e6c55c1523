"""Packed documents: every token predicted once, whole documents in one piece, each read after an end-of-text."""

from collections import Counter

import numpy as np
import pytest

from makelm.batches import Batches
from makelm.errors import UserError
from makelm.loss import NONE

END = 0
LENGTH = 16
# in each shard documents of many lengths, some empty, some longer than a window and one longer than a stretch
LENGTHS = [[3, 1, 16, 17, 1, 9, 50, 2, 28, 26, 21, *[5] * 300], [2000, 4, 4], [], [7, 33]]


def shards(lengths=LENGTHS) -> list[np.ndarray]:
    """Returns shards of documents whose tokens are 1, 2, 3, ... over all of them, with END after each."""
    found, token = [], 1
    for shard in lengths:
        documents = [
            np.append(np.arange(token + sum(shard[:n]), token + sum(shard[: n + 1]) - 1), END)
            for n in range(len(shard))
        ]
        found.append(np.concatenate([np.zeros(0, np.int64), *documents]).astype(np.uint16))
        token += sum(shard)
    return found


def make(tokens, length=LENGTH, end=END, **others) -> Batches:
    return Batches({"mine": tokens}, {"mine": 1.0}, 2**16, end, length, 8, "packed", others.get("seed", 0))


def epoch(batches: Batches, number: int = 0) -> np.ndarray:
    count = int(batches.orders[0].epoch)
    return batches.windows(np.arange(number * count, (number + 1) * count))


@pytest.mark.parametrize("length", [1, 2, 16, 300])
def test_each_epoch_predicts_every_token_exactly_once(length):
    tokens = shards()
    batches = make(tokens, length)
    for number in range(3):
        windows_BT = epoch(batches, number)
        predicted = windows_BT[:, 1:][windows_BT[:, 1:] != NONE]
        assert Counter(predicted.tolist()) == Counter(np.concatenate(tokens).tolist())
    assert epoch(batches, 0).tolist() != epoch(batches, 1).tolist()
    assert batches.filling() == pytest.approx(np.mean(windows_BT[:, 1:] == NONE))


def test_only_what_is_longer_than_a_window_is_cut_and_nothing_is_read_after_a_strangers_token():
    tokens = shards()
    check_what_is_read_before(epoch(make(tokens)), tokens)
    whole = [piece for window in epoch(make(tokens)) for piece in ends(window)]
    short = [count for shard in LENGTHS for count in shard if count <= LENGTH]
    long = [count for shard in LENGTHS for count in shard if count > LENGTH]
    # the pieces that a long one makes: its beginning or end, and windows of its own
    parts = [(count - 1) % LENGTH + 1 for count in long]
    full = sum((count - 1) // LENGTH for count in long)
    assert Counter(whole) == Counter(short) + Counter(parts) + Counter({LENGTH: full})


def check_what_is_read_before(windows_BT: np.ndarray, tokens: list[np.ndarray]) -> None:
    """Checks that each token is read after the one before it in its shard, a shard's first after END."""
    before = {}
    for shard in filter(len, tokens):
        before |= dict(zip(shard.tolist(), [END, *shard[:-1].tolist()], strict=True))
    for window in windows_BT:
        there = window[: np.argmax(window == NONE) if NONE in window else len(window)]
        assert (window[len(there) :] == NONE).all()
        for previous, token in zip(there[:-1].tolist(), there[1:].tolist(), strict=True):
            assert token == END or previous == before[token]


def ends(window: np.ndarray) -> list[int]:
    """Returns the lengths of the pieces in a window: they go on while tokens count up."""
    there = window[1:][window[1:] != NONE].tolist()
    lengths, count = [], 0
    for number, token in enumerate(there):
        count += 1
        following = there[number + 1] if number + 1 < len(there) else None
        if token == END or following is None or following not in (END, token + 1):
            lengths.append(count)
            count = 0
    return lengths


def test_little_stays_empty_where_documents_are_short():
    rng = np.random.default_rng(0)
    batches = make(shards([rng.integers(1, 200, 500).tolist()]), length=256)
    assert batches.filling() < 0.05


def test_a_batch_depends_on_seed_and_step_alone():
    one, same, other = (make(shards(), seed=seed) for seed in (7, 7, 8))
    late = same(29)
    np.testing.assert_array_equal(late, one(29))
    assert (one(0) != other(0)).any()
    np.testing.assert_array_equal(one.rows(3, 2, 5), one(3)[2:5])


def test_windows_of_documents_a_little_longer_than_one_stay_full():
    batches = make(shards([[24] * 200]))  # half a window is left of each
    assert batches.filling() == 0


@pytest.mark.parametrize("last", [12, 28, 40])
def test_a_shard_that_does_not_end_a_document_is_read_to_its_end_and_nothing_after_it(last):
    tokens = [shard[:-1] for shard in shards([[3, 3, last], [3, 3, last]])]
    windows_BT = epoch(make(tokens))
    assert Counter(windows_BT[:, 1:][windows_BT[:, 1:] != NONE].tolist()) == Counter(np.concatenate(tokens).tolist())
    check_what_is_read_before(windows_BT, tokens)


def test_a_tokenizer_without_end_of_text_is_refused():
    with pytest.raises(UserError, match="packed needs a tokenizer with end_of_text: true"):
        make(shards(), end=None)
