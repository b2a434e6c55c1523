"""Two processes that train together: what one process does, each with its own part, and the end of both.

`make test-faults` runs these.
"""

import os
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from training_stage import command, environment, rows, train

from makelm import weights

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

CHANGES = {"steps": 50, "validate_every": 25, "checkpoint_every": 10, "schedule": {"kind": "constant"}}
MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def start(data, out, changes=None, mesh=None):
    """Starts two processes of four simulated devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        words = ("--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--processes", 2, "--log", out / "log.txt")
    commands = [
        command(data, out, CHANGES | (changes or {}), *words, "--process", number, mesh=mesh) for number in (0, 1)
    ]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return [subprocess.Popen(words, env=environment(4), text=True, **pipes) for words in commands]


def wait(processes, seconds=180):
    """Returns the exit code and the complaint of each."""
    deadline = time.monotonic() + seconds
    return [(each.wait(deadline - time.monotonic()), each.communicate()[1]) for each in processes]


def once_saved(processes, out):
    """Waits until a checkpoint has its final name."""
    while not any(path.name.isdigit() for path in out.glob("checkpoints/*/*")):
        assert all(each.poll() is None for each in processes), wait(processes)
        time.sleep(0.02)


@pytest.fixture
def begin():
    """Starts two processes, of which none is left when the test ends."""
    begun = []

    def both(*arguments, **more):
        begun.extend(start(*arguments, **more))
        return begun

    yield both
    for process in begun:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The same training in one process on eight devices."""
    out = tmp_path_factory.mktemp("alone")
    done = train(data, out, CHANGES, mesh=MESH, devices=8)
    assert done.returncode == 0, done.stderr
    return out


def compare(out, alone):
    """Checks that a training has the steps, and nearly the losses, of another; returns how nearly."""
    own, others = rows(out), rows(alone)
    assert [row["step"] for row in own] == list(range(1, 51))
    losses, expected = ([row["loss"] for row in each] for each in (own, others))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
    assert own[-1]["validation_loss"] == pytest.approx(others[-1]["validation_loss"], rel=1e-4)
    first, second = (weights.load(folder / weights.FILE).parameters for folder in (out, alone))
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=2e-3, err_msg=name)
    return difference


def written(out, folder):
    """Returns the bytes in a folder of the last checkpoint."""
    return sum(file.stat().st_size for file in out.glob(f"checkpoints/*/50/state/{folder}/*"))


@pytest.mark.parametrize("mesh", [MESH, {"data": 1, "fsdp": 8, "tensor": 1}])
def test_two_processes_do_what_one_does_and_each_saves_its_part(data, alone, begin, tmp_path, mesh, tell):
    assert wait(begin(data, tmp_path, mesh=mesh)) == [(0, ""), (0, "")]
    difference = compare(tmp_path, alone)
    axes = " x ".join(map(str, mesh.values()))
    tell("meshes", "two processes of four devices, against one process of eight", axes, f"{difference:.1e}")
    # what a process wrote over on the way stays in its folder; what counts is gathered beside them
    parts = [written(tmp_path, f"ocdbt.process_{number}/d") for number in (0, 1)]
    assert min(parts) > 0.4 * written(tmp_path, "d"), parts
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_one_ends_both_after_the_same_step(data, begin, tmp_path, number, tell):
    processes = begin(data, tmp_path, {"steps": 100_000}, MESH)
    once_saved(processes, tmp_path)
    processes[number].send_signal(signal.SIGTERM)
    ended = wait(processes)
    assert [code for code, _ in ended] == [75, 75]
    steps = {line.split("step ")[1].split()[0] for _, line in ended}
    assert len(steps) == 1, ended
    tell("faults", f"SIGTERM to process {number} of two", "both save the same step and end with 75")


def test_a_checkpoint_of_two_processes_is_gone_on_from_by_one_on_another_mesh(data, alone, begin, tmp_path, tell):
    processes = begin(data, tmp_path, {"time_limit": 1e-3}, MESH)
    assert [code for code, _ in wait(processes)] == [75, 75]
    done = train(data, tmp_path, CHANGES, mesh={"data": 1, "fsdp": 1, "tensor": 1})
    assert done.returncode == 0 and "from step 0," not in done.stdout, done.stderr
    difference = compare(tmp_path, alone)
    tell(
        "faults",
        "`time_limit` in two processes on 2 x 2 x 2, gone on from by one on one device",
        f"losses of 50 steps within {difference:.1e}",
    )


def test_bad_steps_before_and_after_a_restart_end_both_after_the_same_step(data, begin, tmp_path, tell):
    bad = {"bad_steps": "skip", "max_gradient_norm": 1e-12, "steps": 12, "validate_every": 4}
    first = begin(data, tmp_path, bad, MESH)
    assert [code for code, _ in wait(first)] == [0, 0]
    ended = wait(begin(data, tmp_path, bad | {"steps": 60}, MESH)[2:])
    assert [code for code, _ in ended] == [2, 2], ended
    assert all("at step 20 " in line and "the 20th bad step in a row" in line for _, line in ended), ended
    tell("faults", "12 bad steps, a restart, 8 more, in two processes", "both end with 2 at the 20th")


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_ends_within_a_minute(data, begin, tmp_path, victim, tell):
    processes = begin(data, tmp_path, {"steps": 100_000}, MESH)
    once_saved(processes, tmp_path)
    processes[victim].kill()
    killed = time.monotonic()
    assert processes[1 - victim].wait(60) != 0
    tell("faults", f"kill -9 of process {victim} of two", f"the other ends after {time.monotonic() - killed:.0f} s")


def test_a_number_that_cannot_be_is_one_line(data, tmp_path):
    done = train(data, tmp_path, {}, "--processes", 2, "--process", 2, "--coordinator", "127.0.0.1:1")
    assert done.returncode == 2 and "--process must be from 0 to 1, got 2" in done.stderr
    done = train(data, tmp_path, {}, "--processes", 2)
    assert done.returncode == 2 and "--processes needs --coordinator" in done.stderr
