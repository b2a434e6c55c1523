"""Which windows are validated on while training goes on."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import compute, shape, train

from makelm import validation
from makelm.errors import UserError
from makelm.loss import NONE


def windows(shards, wanted, length=4, batch=2):
    return validation.windows("mine", [np.array(shard, np.uint16) for shard in shards], length, batch, wanted)


def test_few_windows_lie_evenly_over_all_tokens_of_all_shards():
    shards = [np.arange(100), np.arange(100, 110), np.arange(110, 201)]  # 50 windows of 4
    found = windows(shards, 10)
    assert found[:, 0].tolist() == [0, 20, 40, 60, 80, 100, 120, 140, 160, 180]
    np.testing.assert_array_equal(found - found[:, :1], np.tile(np.arange(5), (10, 1)))  # over borders of shards too


def test_all_windows_where_there_are_no_more():
    assert windows([np.arange(17)], 100)[:, 0].tolist() == [0, 4, 8, 12]
    assert windows([np.arange(16)], 100)[:, 0].tolist() == [0, 4, 8, NONE]  # the fourth has no last target


def test_shards_shorter_than_a_window_and_empty_ones_are_joined():
    found = windows([[0, 1], [], [2], [], [3, 4, 5, 6], [7, 8], []], 2)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]])


@pytest.mark.parametrize("shards", [[], [[]], [[0, 1, 2, 3]]])
def test_less_than_one_window_is_one_line(shards):
    with pytest.raises(UserError, match=r"^model.context_length: 4 is longer than the validation data of mine"):
        windows(shards, 3)


def test_no_more_is_computed_at_a_time_than_a_part_of_a_step():
    tokens = np.arange(16 * 9 + 1, dtype=np.uint16) % 64
    data = SimpleNamespace(folders={"mine": SimpleNamespace(valid=[tokens])}, weights={"mine": 1.0})
    computed = []

    def validate(_, windows_BT):
        computed.append(len(windows_BT))
        return np.ones(len(windows_BT)), np.full(len(windows_BT), 16)

    trainer = SimpleNamespace(place=lambda windows_BT: windows_BT, validate=validate)
    settings = train(batch_size=8, validate_windows=9)
    held_out = validation.HeldOut.of_run(data, shape(context_length=16), settings, compute(accumulate=4))
    assert held_out.begin(trainer, {})()["validation_loss"] == 1 / 16
    assert computed == [2] * 5


@pytest.mark.parametrize(
    ("losses", "error", "step"),
    [
        ([3.5, 3.25, 3.0], 0.1, None),
        ([3.5, 3.0, 3.15], 0.1, None),  # within its error
        ([3.5, 3.0, None, 3.5], 0.1, 2),
        ([3.5, 3.0, 3.5], None, 2),  # one window has no error
        ([3.5, 3.0, None], None, None),
        ([None, None], None, None),
    ],
)
def test_a_loss_that_rose_again_is_said_with_where_it_was_least(losses, error, step):
    rows = [{"step": n, "validation_loss": loss} for n, loss in enumerate(losses, 1)]
    rows[-1]["validation_loss_sem"] = error
    line = validation.past_the_best([{"step": 0}, *rows])
    assert line.partition(" and rose")[0] == (f"the validation loss was least at step {step}, 3.000," if step else "")
