"""What people look at has every step exactly once, whatever interrupted the training, and never stops it."""

import json
import subprocess
import sys
import threading

import conftest
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from makelm import config, configfile, tracking, tracking_wandb
from makelm.errors import UserError

IDENTITY = "0123456789abcdef"


def settings(**changes) -> config.Tracking:
    return configfile.parse(config.Tracking, conftest.TRACKING | changes, "test")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoints" / IDENTITY
    path.mkdir(parents=True)
    return path


def metrics(step: int) -> dict:
    row = {"step": step, "tokens": 128 * step, "loss": 5 - step / 100, "learning_rate": 0.01, "grad_norm": 1.0}
    return row | ({"validation_loss": 5.5} if step % 5 == 0 else {})


def cut_back(folder, steps: int) -> None:
    """Leaves in the trainer's own files what a start from this checkpoint leaves there."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics(n)) + "\n" for n in range(1, steps + 1)))
    times = [{"step": n, "seconds": 1.0, "tokens_per_second": 9.0} for n in range(2, steps + 1, 2)]
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))


def begin(folder, say=pytest.fail, log_every=2, **changes) -> tracking.Tracker:
    return tracking.Tracker(folder, settings(**changes), "tiny", {"train": {"seed": 0}}, log_every, say)


def train(folder, first: int, last: int, **changes) -> tracking.Tracker:
    """Goes on from first - 1 steps, and is left as it is after the last."""
    cut_back(folder, first - 1)
    tracker = begin(folder, **changes)
    for step in range(first, last + 1):
        if step % 2 == 0:
            tracker.scalars(step, {"step": step, "seconds": 1.0, "tokens_per_second": 9.0})
        tracker.scalars(step, metrics(step))
    return tracker


def curves(folder) -> dict[str, list[int]]:
    """Returns the steps of each tag as TensorBoard reads them; nothing is purged or thinned out."""
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    return {tag: [point.step for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def expected(steps: int) -> dict[str, list[int]]:
    own = [n for n in range(1, steps + 1) if n % 2 == 0 or n % 5 == 0]
    tags = ["loss/train", "learning_rate", "norms/gradient", "tokens"]
    return {tag: own for tag in tags} | {
        "speed/tokens_per_second": [n for n in own if n % 2 == 0],
        "loss/validation": [n for n in own if n % 5 == 0],
    }


def test_tensorboard_reads_each_step_under_the_names_people_expect(folder):
    train(folder, 1, 12).close()
    assert curves(folder) == expected(12)


@pytest.mark.parametrize("checkpoint", [0, 4, 5, 12])
def test_a_start_from_a_checkpoint_has_each_step_once(folder, checkpoint):
    train(folder, 1, 12)  # and no word at its end, as after kill -9
    train(folder, checkpoint + 1, 14).close()
    assert curves(folder) == expected(14)


def test_so_does_one_after_a_file_that_ends_anywhere(folder):
    train(folder, 1, 7)
    [file] = (folder / "tensorboard").iterdir()
    written = file.read_bytes()
    for size in range(0, len(written), 7):
        for path in (folder / "tensorboard").iterdir():
            path.unlink()
        file.write_bytes(written[:size])
        train(folder, 7, 8).close()
        assert curves(folder) == expected(8), f"cut to {size} bytes"


def test_and_one_after_bytes_that_are_no_records(folder):
    train(folder, 1, 7)
    [file] = (folder / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:600] + bytes(200))
    train(folder, 7, 8).close()
    assert curves(folder) == expected(8)


def test_what_is_kept_keeps_its_times(folder):
    def times():
        reader = EventAccumulator(str(folder / "tensorboard"))
        reader.Reload()
        return {point.step: point.wall_time for point in reader.Scalars("loss/train")}

    train(folder, 1, 8)
    before = times()
    train(folder, 7, 9).close()
    assert {step: time for step, time in times().items() if step < 6} == {n: before[n] for n in (2, 4, 5)}


def test_a_reader_that_was_there_before_sees_each_step_once_too(folder):
    train(folder, 1, 12)
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    for first in (5, 3):
        train(folder, first, 8)
        reader.Reload()
        assert [point.step for point in reader.Scalars("loss/train")] == expected(8)["loss/train"]


def test_steps_of_another_run_that_it_goes_on_from_are_there(folder):
    cut_back(folder, 6)
    begin(folder).close()
    assert curves(folder) == expected(6)


def test_a_reader_finds_a_step_as_soon_as_it_was_taken(folder):
    tracker = train(folder, 1, 6)
    assert curves(folder) == expected(6)
    tracker.close()


def test_other_numbers_keep_their_names_and_words_are_left_out(folder):
    tracker = begin(folder)
    tracker.scalars(3, {"step": 3, "norms/weights": 2.5, "device": "cpu", "missing": None})
    tracker.close()
    assert curves(folder) == {"norms/weights": [3]}


def test_a_corpus_of_several_stands_below_the_loss_of_all():
    found = tracking.named({"validation_loss": 2.5, "validation_loss/mine": 3.0, "weight_rms/blocks.0": 1.0})
    assert found == {"loss/validation": 2.5, "loss/validation/mine": 3.0, "weight_rms/blocks.0": 1.0}


def test_the_library_costs_nothing_until_a_training_begins():
    heavy = "tensorboard", "wandb", "google.protobuf", "numpy"
    code = f"import sys, makelm.tracking; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tracking.__file__.rpartition("/makelm/")[0], stdout=-1)
    assert done.stdout.decode().strip() == "[]"


# ---- W&B


class Server:
    """Stands for the package and the server: what is logged to a run stays, and a run that is there is resumed."""

    def __init__(self):
        self.runs, self.logged_in, self.broken = {}, True, False

    def login(self, prompt):
        assert not prompt
        return self.logged_in

    def Settings(self, **_):
        return None

    def init(self, id, mode, resume, name, config, **_):
        assert resume == ("allow" if mode == "online" else None) and config == {"train": {"seed": 0}}
        if self.broken:
            raise ConnectionError("no network\nmore words")
        self.history = self.runs.setdefault(id, {}) if mode == "online" else {}
        self.starting_step = max(self.history, default=-1) + 1
        return self

    def log(self, values, step):
        assert step >= max(self.history, default=0), "W&B would drop it"
        self.history.setdefault(step, {}).update(values)

    def finish(self):
        pass

    def teardown(self):
        pass


@pytest.fixture
def server(monkeypatch):
    fake = Server()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(tracking_wandb.importlib.util, "find_spec", lambda name: fake)
    return fake


def had(history: dict) -> dict[str, list[int]]:
    tags = dict.fromkeys(tag for values in history.values() for tag in values)
    return {tag: [step for step, values in history.items() if tag in values] for tag in tags}


@pytest.mark.parametrize("checkpoint", [0, 4, 12])
def test_online_a_resumed_run_sends_what_the_server_lacks(folder, server, checkpoint):
    train(folder, 1, 12, wandb="online").close()
    train(folder, checkpoint + 1, 14, wandb="online").close()
    [history] = server.runs.values()
    assert had(history) == expected(14)


def test_online_what_was_never_sent_follows(folder, server):
    train(folder, 1, 12)
    train(folder, 9, 14, wandb="online").close()
    [history] = server.runs.values()
    assert had(history) == expected(14)


def test_runs_of_one_identity_and_two_names_are_two(folder, server):
    train(folder, 1, 2, wandb="online").close()
    tracking.Tracker(folder, settings(wandb="online"), "other", {"train": {"seed": 0}}, 2, pytest.fail).close()
    assert len(server.runs) == 2


@pytest.mark.parametrize(("what", "word"), [("logged_in", "wandb login"), ("broken", "no network")])
def test_where_it_fails_one_line_says_so_and_training_goes_on(folder, server, what, word):
    setattr(server, what, not getattr(server, what))
    said = []
    train(folder, 1, 12, wandb="online", say=said.append).close()
    assert len(said) == 1 and word in said[0] and "\n" not in said[0]
    assert curves(folder) == expected(12)


def test_a_network_that_hangs_holds_up_nothing(folder, server, monkeypatch):
    monkeypatch.setattr(tracking_wandb, "END_SECONDS", 0.1)
    server.log = lambda values, step: threading.Event().wait(5)
    said = []
    train(folder, 1, 12, wandb="online", say=said.append).close()
    assert len(said) == 1 and "0.1 s" in said[0]


def test_a_missing_package_is_a_line_that_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setattr(tracking_wandb.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="-m pip install wandb"):
        begin(folder, wandb="offline")
