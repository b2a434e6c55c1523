"""makelm's training step: what train_model compiles and feeds, in the shape of one of its peers."""

import sys
import time
from pathlib import Path

from turn import serve, task

started = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import own_step  # noqa: E402

from makelm import loss, training  # noqa: E402
from makelm.loop import Feed  # noqa: E402

given = task()
T, B = given["context"], given["batch"]
loss.LOGITS_ELSEWHERE = given.get("logits", loss.LOGITS_ELSEWHERE)
trainer = own_step.trainer(given)
state = trainer.initial_state()
tokens = np.memmap(given["tokens"], dtype=np.uint16, mode="r")
rng = np.random.default_rng(0)
done, losses = 0, []


def place(_: int):
    places = rng.integers(0, len(tokens) - T - 1, B)
    return trainer.place(tokens[places[:, None] + np.arange(T + 1)].astype(np.int32))


def work(steps: int) -> None:
    global state, done
    feed, before = Feed(place, done, done + steps), None
    for number in range(done, done + steps):
        state, metrics = trainer.step(state, feed(number), number)
        if before is not None:
            losses.append(float(before["loss"]))  # of the step before: the loop does not wait for the one at work
        before = metrics
    done += steps
    losses.append(float(before["loss"]))


built = time.monotonic()
work(1)
facts = {"compile_seconds": time.monotonic() - built}
facts["parameters"] = training.parameter_count(trainer.state_shapes["parameters"])
facts |= {"versions": {"jax": jax.__version__}, "device": jax.devices()[0].device_kind}
serve(facts | {"first_loss": losses[0], "import_seconds": built - started}, work)
