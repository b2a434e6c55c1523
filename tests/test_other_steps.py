"""Trainings of other steps: which checkpoint they go on from, or why none; tests/faults/test_going_on.py runs some."""

from pathlib import Path

import pytest
from conftest import train

from makelm import checkpoints, going_on, identities


def said(folder: Path, schedule: str, theirs: int, ours: int) -> str:
    """Returns the line of a training beside another one, which keeps its checkpoints of steps 20 and 30."""
    settings = [train(steps=steps, schedule={"kind": schedule}) for steps in (ours, theirs)]
    own, other = (identities.Identity({"train": each.model_dump()}, {}, "code") for each in settings)
    for step in ("20", "30"):
        (folder / other.name / step).mkdir(parents=True)
    identities.write(folder / other.name, other)
    lines = []
    assert going_on.shorter(folder, own, settings[0], None, lines.append) is None
    (line,) = lines
    assert line.startswith(f"identity {other.name} is the same training of {theirs} steps, but ")
    return line


def test_fewer_steps_of_a_constant_schedule_begin_at_zero_for_want_of_a_checkpoint(tmp_path):
    line = said(tmp_path, "constant", theirs=30, ours=15)
    assert "its checkpoints begin at 20 and this one ends at 15: it begins at 0. train.keep_every keeps" in line
    assert "learning rates" not in line


@pytest.mark.parametrize("ours", [15, 60])
def test_other_steps_of_a_decay_begin_at_zero_for_its_rates(tmp_path, ours):
    line = said(tmp_path, "linear", theirs=30, ours=ours)
    assert "its learning rates are others from step" in line and "on and its checkpoints begin at 20: this one" in line


def test_a_longer_training_goes_on_from_the_last_step_with_its_own_learning_rates(monkeypatch, tmp_path):
    own, other = (train(steps=steps, schedule={"decay_fraction": 0.5}) for steps in (60, 40))
    last = going_on.same_until(own, other)
    assert last == 22  # two of warmup, 19 at the full rate, and the first of the decay has it still
    there = identities.Identity({"train": other.model_dump()}, {}, "code")
    for step in (last - 2, last, last + 1):
        (tmp_path / there.name / str(step)).mkdir(parents=True)
    identities.write(tmp_path / there.name, there)
    monkeypatch.setattr(checkpoints, "read_step", lambda folder, step, shapes: {"step": step})
    wanted = identities.Identity({"train": own.model_dump()}, {}, "code")
    origin = going_on.shorter(tmp_path, wanted, own, None, print)
    assert (origin.step, origin.state) == (last, {"step": last})


@pytest.mark.parametrize(("publish", "begin"), [("last", 20), ("best", 12)])
def test_best_weights_are_taken_over_from_where_a_longer_training_validates_too(monkeypatch, tmp_path, publish, begin):
    settings = {"schedule": {"kind": "constant"}, "validate_every": 6, "publish": publish}
    own, other = (train(steps=steps, **settings) for steps in (60, 20))
    there = identities.Identity({"train": other.model_dump()}, {}, "code")
    for step in (12, 20):
        (tmp_path / there.name / str(step)).mkdir(parents=True)
    identities.write(tmp_path / there.name, there)
    monkeypatch.setattr(checkpoints, "read_step", lambda folder, step, shapes: {"step": step})
    wanted = identities.Identity({"train": own.model_dump()}, {}, "code")
    assert going_on.shorter(tmp_path, wanted, own, None, print).step == begin
