"""Checkpoints: what comes back is what was saved; a damaged one is skipped aloud; metrics end where it does."""

import json

import jax
import numpy as np
import pytest

from makelm.checkpoints import Checkpoints, others
from makelm.errors import UserError


def state(value):
    return {"parameters": {"a.b": jax.numpy.full((4, 4), float(value))}, "optimizer": [jax.numpy.int32(value)]}


SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def train_to(folder, steps, every, keep=3):
    saved = Checkpoints(folder, keep)
    start, _ = saved.restore(SHAPES, print)
    for step in range(start + 1, steps + 1):
        saved.record({"step": step})
        if step % every == 0:
            saved.save(step, state(step))
    saved.close()


def restore(folder):
    said = []
    saved = Checkpoints(folder, 3)
    steps, found = saved.restore(SHAPES, said.append)
    saved.close()
    return steps, found, said


def recorded(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_latest_comes_back_and_metrics_end_with_it(tmp_path):
    train_to(tmp_path, 7, 2)
    steps, found, said = restore(tmp_path)
    assert (steps, said, recorded(tmp_path)) == (6, [], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(found["parameters"]["a.b"], np.full((4, 4), 6.0))
    assert int(found["optimizer"][0]) == 6


def test_only_the_last_few_are_kept(tmp_path):
    train_to(tmp_path, 10, 2, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["10", "8"]


def test_a_damaged_one_is_skipped_aloud_for_the_one_before(tmp_path):
    train_to(tmp_path, 6, 2)
    for path in (tmp_path / "6" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    steps, found, said = restore(tmp_path)
    assert steps == 4 and float(found["parameters"]["a.b"][0, 0]) == 4
    assert len(said) == 1 and "step 6 cannot be read" in said[0]
    assert recorded(tmp_path) == [1, 2, 3, 4]


def test_an_unfinished_one_does_not_count(tmp_path):
    train_to(tmp_path, 4, 2)
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "state").mkdir()
    assert restore(tmp_path)[0] == 4


def test_with_none_training_begins_at_zero_and_so_do_the_metrics(tmp_path):
    train_to(tmp_path, 3, 10)
    assert restore(tmp_path)[:2] == (0, None)
    assert recorded(tmp_path) == []


def test_metrics_that_do_not_reach_the_checkpoint_are_refused(tmp_path):
    train_to(tmp_path, 4, 2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="does not reach step 4"):
        restore(tmp_path)


def test_other_identities_are_listed(tmp_path):
    for name in ("abc", "def"):
        (tmp_path / name).mkdir()
    assert others(tmp_path, "abc") == ["def"]
    assert others(tmp_path / "none", "abc") == []
