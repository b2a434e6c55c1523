"""Checkpoints: what comes back is what was saved; a damaged one is skipped aloud; metrics end where it does."""

import json
from pathlib import Path

import conftest
import jax
import numpy as np
import pytest

from makelm import warm_start
from makelm.checkpoints import Checkpoints, others
from makelm.errors import Interrupted, UserError


def state(value):
    return {"parameters": {"a.b": jax.numpy.full((4, 4), float(value))}, "optimizer": [jax.numpy.int32(value)]}


SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def train_to(folder, steps, every, keep=3, losses=None, **more):
    saved = Checkpoints(folder, keep, **more)
    start, _ = saved.restore(SHAPES, print)
    for step in range(start + 1, steps + 1):
        saved.record({"step": step})
        saved.time({"step": step})
        if step % every == 0:
            saved.save(step, state(step), losses and losses[step])
    saved.close()


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir())


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
    timed = [json.loads(line)["step"] for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert timed == [1, 2, 3, 4, 5, 6]
    assert (steps, said, recorded(tmp_path)) == (6, [], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(found["parameters"]["a.b"], np.full((4, 4), 6.0))
    assert int(found["optimizer"][0]) == 6


def test_only_the_last_few_are_kept(tmp_path):
    train_to(tmp_path, 10, 2, keep=2)
    assert kept(tmp_path) == [8, 10]
    assert sorted(path.name for path in tmp_path.glob("*.sha256.json")) == ["10.sha256.json", "8.sha256.json"]


def test_those_of_every_so_many_steps_and_the_best_are_kept_as_well(tmp_path):
    losses = dict(zip(range(1, 11), [9, 8, 7, 1, 5, 6, 7, 8, 9, 9], strict=True))
    train_to(tmp_path, 10, 1, keep=2, losses=losses, keep_every=3, keep_best=True)
    assert kept(tmp_path) == [3, 4, 6, 9, 10]


def test_another_byte_is_noticed_even_where_it_can_still_be_read(tmp_path):
    train_to(tmp_path, 6, 2)
    metadata = tmp_path / "6" / "state" / "_METADATA"
    metadata.write_text(metadata.read_text() + " ")
    steps, found, said = restore(tmp_path)
    assert steps == 4 and float(found["parameters"]["a.b"][0, 0]) == 4
    assert len(said) == 1 and "step 6 is damaged: state/_METADATA is not as it was written" in said[0]
    train_to(tmp_path, 6, 2)  # the same step, saved anew, has a seal of its own
    assert restore(tmp_path)[0] == 6 and restore(tmp_path)[2] == []


def test_an_optimizer_is_not_kept_from_a_damaged_one(tmp_path):
    saved = tmp_path / "checkpoints" / "0123456789abcdef"
    train_to(saved, 6, 2)
    content = {"config": {"train": {"optimizer": {"kind": "muon"}}}, "facts": {"identity": saved.name}}

    def keep():
        return warm_start.kept_optimizer(tmp_path, content, 6, conftest.train(), SHAPES["optimizer"])

    assert int(keep()[0]) == 6
    metadata = saved / "6" / "state" / "_METADATA"
    metadata.write_text(metadata.read_text() + " ")
    with pytest.raises(UserError, match=r"step 6 is damaged: state/_METADATA .*; set start.optimizer: fresh"):
        keep()


def test_an_optimizer_is_not_kept_from_one_of_another_kind(tmp_path):
    content = {"config": {"train": {"optimizer": {"kind": "lion"}}}, "facts": {"identity": "0123456789abcdef"}}
    train_to(tmp_path / "checkpoints" / "0123456789abcdef", 6, 2)
    with pytest.raises(UserError, match="was trained with lion, so muon cannot keep its statistics"):
        warm_start.kept_optimizer(tmp_path, content, 6, conftest.train(), SHAPES["optimizer"])


def test_who_has_lost_the_folder_saves_nothing(tmp_path):
    def lost():
        raise Interrupted("lost")

    saved = Checkpoints(tmp_path, 3, check=lost)
    with pytest.raises(Interrupted):
        saved.save(2, state(2))
    saved.close()
    assert kept(tmp_path) == []


def test_a_damaged_one_without_a_seal_is_skipped_aloud_for_the_one_before(tmp_path):
    train_to(tmp_path, 6, 2)
    (tmp_path / "6.sha256.json").unlink()  # as where a kill came first
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


def test_a_kill_while_metrics_are_cut_loses_none(tmp_path, monkeypatch):
    train_to(tmp_path, 7, 2)
    write = Path.write_text

    def killed(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    saved = Checkpoints(tmp_path, 3)
    saved.timings_path.unlink()
    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        saved.cut(6)
    monkeypatch.undo()
    saved.close()
    assert restore(tmp_path)[0] == 6 and recorded(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_metrics_that_end_with_the_checkpoint_are_not_written_again(tmp_path):
    train_to(tmp_path, 6, 2)
    before = [(tmp_path / name).stat().st_mtime_ns for name in ("metrics.jsonl", "timings.jsonl")]
    assert restore(tmp_path)[0] == 6
    assert [(tmp_path / name).stat().st_mtime_ns for name in ("metrics.jsonl", "timings.jsonl")] == before


def test_other_identities_that_have_a_checkpoint_are_listed(tmp_path):
    for name in ("abc/4", "def/4", "ghi/6.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ghi/identity.json").touch()  # of a start that failed
    assert others(tmp_path, "abc") == ["def"]
    assert others(tmp_path / "none", "abc") == []
