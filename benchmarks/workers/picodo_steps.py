"""picodo's training step: its model and its train_step, one device, batches put there as its loop does."""

import os
import sys
import time

from turn import serve, task

started = time.monotonic()
given = task()
sys.path.insert(0, given["checkout"])
os.environ["WANDB_MODE"] = "disabled"

from functools import partial  # noqa: E402

import jax  # noqa: E402
import model as model_lib  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import train  # noqa: E402
from jax.sharding import AxisType  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

devices = ("data", "model"), (AxisType.Explicit, AxisType.Explicit)
jax.set_mesh(jax.make_mesh((1, 1), devices[0], axis_types=devices[1]))
T, B = given["context"], given["batch"]
sizes = {"D": given["width"], "L": given["layers"], "H": given["width"] // given["heads"], "T": T}
extra = {"remat": False, "unroll": given.get("unroll", False), "dp_shard": False, "activ_dtype": given["dtype"]}
shape = OmegaConf.create(sizes | {"V": given["vocabulary"]} | extra)
weights = model_lib.create_sharded_model(shape, jax.random.key(0))
forward = partial(model_lib.forward, shape)
schedule = optax.schedules.warmup_cosine_decay_schedule(0, 1e-3, 100, 100_000)
optimizer = optax.adamw(schedule, 0.9, 0.99, weight_decay=0.02)
state = optimizer.init(weights)
tokens = np.memmap(given["tokens"], dtype=np.uint16, mode="r")
rows = tokens[: len(tokens) // T * T].reshape(-1, T)
rng = np.random.default_rng(0)
losses = []


def work(steps: int) -> None:
    global weights, state
    for _ in range(steps):
        batch = jax.device_put(rows[rng.integers(0, len(rows), B)], P("data", None))
        weights, state, loss = train.train_step(forward, optimizer, weights, state, batch)
    losses.append(float(loss))


built = time.monotonic()
work(1)
facts = {"compile_seconds": time.monotonic() - built, "parameters": sum(w.size for w in jax.tree.leaves(weights))}
serve(facts | {"versions": {"jax": jax.__version__}, "first_loss": losses[0], "import_seconds": built - started}, work)
