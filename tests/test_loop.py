"""The steps of a training: what a start goes on from, and which of them are bad."""

import json
from types import SimpleNamespace

import pytest
from conftest import train

from makelm import checkpoints, loop, processes
from makelm.errors import UserError


def test_all_processes_count_the_bad_steps_before_a_restart_though_one_alone_has_them(monkeypatch, tmp_path):
    rows = [{"step": step, "tokens": step, "loss": 1.0} for step in range(1, 19)]
    rows[3:] = [row | {"skipped": 1.0} for row in rows[3:]]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved, sent, bad = checkpoints.Checkpoints(tmp_path, 2), [], []
    monkeypatch.setattr(processes, "of_first", lambda number: sent.append(number) or sent[0])
    for leads in (True, False):
        monkeypatch.setattr(processes, "leads", lambda leads=leads: leads)
        bad.append(loop.Loop(None, train(), saved, None, None, 1).bad)
    assert (sent, bad) == ([15, 0], [15, 15])


GOOD, LARGE = ({"step": 7, "loss": 1.0, "grad_norm": norm} for norm in (2.0, 2.5))
NONE = {"step": 7, "loss": float("nan"), "grad_norm": 1.0}


def steps(folder, bad_steps: str) -> loop.Loop:
    """Returns the loop of a training that has not begun, whose gradient's norm may be 2."""
    (folder / "metrics.jsonl").touch()
    settings = train(bad_steps=bad_steps, max_gradient_norm=2.0)
    made = loop.Loop(None, settings, checkpoints.Checkpoints(folder, 2), None, None, 1)
    made.last_saved = 5
    return made


@pytest.mark.parametrize("bad", [LARGE, NONE])
def test_a_bad_step_ends_the_training_where_none_is_to_be_left_out(tmp_path, bad):
    stopping = steps(tmp_path, "stop")
    stopping.check(GOOD)
    with pytest.raises(UserError, match=r"at step 7 and the gradient's norm [\d.]+; step 5 is the last one saved"):
        stopping.check(bad)


def test_bad_steps_are_left_out_until_twenty_come_in_a_row(tmp_path):
    skipping = steps(tmp_path, "skip")
    for row in (*[LARGE] * 19, GOOD, *[NONE] * 19):
        skipping.check(row)
    with pytest.raises(UserError, match="the 20th bad step in a row"):
        skipping.check(LARGE)


class Devices:
    """Take a second for each step while the host goes on; to read a step's numbers takes the clock to its end."""

    def __init__(self):
        self.now = self.free = 0.0

    def step(self, state, windows_BT, number):
        self.free = max(self.free, self.now) + 1.0
        return state, dict.fromkeys(("loss", "grad_norm"), Later(self, self.free))


class Later:
    def __init__(self, devices: Devices, ready: float):
        self.devices, self.ready = devices, ready

    def __float__(self):
        self.devices.now = max(self.devices.now, self.ready)
        return 1.0


@pytest.mark.parametrize(("every", "steps"), [(1, [6, 7, 8, 9, 10]), (2, [6, 8, 10]), (5, [10])])
def test_a_line_of_times_counts_the_steps_that_were_done_meanwhile(monkeypatch, tmp_path, every, steps):
    devices, lines = Devices(), []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: devices.now))
    saved = SimpleNamespace(rows=list, record=lambda row: None, save=lambda *state: None)
    observer = SimpleNamespace(
        before=lambda *step: None,
        row=lambda row: None,
        advance=lambda: None,
        times=lambda times, loss: lines.append(times),
    )
    held_out = SimpleNamespace(begin=lambda *state: lambda: {"validation_loss": 1.0})
    settings = train(steps=10, log_every=every, checkpoint_every=100)
    stops = SimpleNamespace(ask=lambda long_ago: (None, False))
    started = loop.Loop(devices, settings, saved, observer, stops, 32)
    started.run({}, 3, loop.Feed(lambda step: None, 3, 10), held_out)
    assert [line["step"] for line in lines] == steps
    assert {line["tokens_per_second"] for line in lines} == {32.0}
