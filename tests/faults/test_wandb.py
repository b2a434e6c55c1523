"""W&B's own package, offline: no network, no login, no word on the terminal; a resumed training has each step once."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_tracking import begin, curves, cut_back, expected, folder, had, train  # noqa: F401  (folder: a fixture)

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

BLOCK = 1 << 15


def records(data: bytes) -> Iterator[bytes]:
    """Yields the records of LevelDB's log format: blocks of 32 KiB, in which a record may go on from the one before."""
    at, record = 7, b""  # after the head of W&B's own
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        _, size, part = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if part in (1, 4):  # the whole, the last part
            yield record
            record = b""


def offline_run(within: Path) -> tuple[str, dict[int, dict]]:
    """Returns the id and the history of the one offline run in a folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = (within / "wandb").glob("offline-run-*/run-*.wandb")
    history, run_id = {}, ""
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        run_id = record.run.run_id or run_id
        if record.history.item:
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            assert items["_step"] not in history
            history[items["_step"]] = {key: value for key, value in items.items() if not key.startswith("_")}
    return run_id, history


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there


def test_offline_a_resumed_training_is_one_run_with_each_step_once(folder, capfd):  # noqa: F811
    train(folder, 1, 12, wandb="offline").close()
    first, history = offline_run(folder)
    assert had(history) == expected(12)
    train(folder, 5, 14, wandb="offline").close()
    second, history = offline_run(folder)
    assert first == second and had(history) == expected(14)
    assert history[14]["loss/train"] == pytest.approx(4.86)
    assert capfd.readouterr() == ("", "")


def test_online_without_a_login_training_goes_on_after_one_line(folder, capfd):  # noqa: F811
    said = []
    train(folder, 1, 12, wandb="online", say=said.append).close()
    assert len(said) == 1 and "wandb login" in said[0]
    assert curves(folder) == expected(12)
    assert capfd.readouterr() == ("", "")


def test_online_without_a_network_likewise(folder, capfd, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    cut_back(folder, 0)
    said = []
    begin(folder, wandb="online", say=said.append).close()
    assert len(said) == 1
    assert capfd.readouterr() == ("", "")
