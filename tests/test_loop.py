"""The steps of a training: what a start goes on from."""

import json

from conftest import train

from makelm import checkpoints, loop, processes


def test_all_processes_count_the_bad_steps_before_a_restart_though_one_alone_has_them(monkeypatch, tmp_path):
    rows = [{"step": step, "loss": 1.0} | ({"skipped": 1.0} if step > 3 else {}) for step in range(1, 19)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved, sent, bad = checkpoints.Checkpoints(tmp_path, 2), [], []
    monkeypatch.setattr(processes, "of_first", lambda number: sent.append(number) or sent[0])
    for leads in (True, False):
        monkeypatch.setattr(processes, "leads", lambda leads=leads: leads)
        bad.append(loop.Loop(None, train(), saved, None, None, 1).bad)
    assert (sent, bad) == ([15, 0], [15, 15])
