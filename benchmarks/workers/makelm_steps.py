"""makelm's training step: what train_model compiles and feeds, in the shape of one of its peers."""

import sys
import time
from pathlib import Path

from turn import serve, task

started = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import yaml  # noqa: E402

from makelm import configfile, sharding, training  # noqa: E402
from makelm.loop import Feed  # noqa: E402

given = task()
T, B, D = given["context"], given["batch"], given["width"]
heads = {"n_heads": given["heads"], "n_kv_heads": given["heads"], "d_head": D // given["heads"]}
sizes = {"context_length": T, "n_layers": given["layers"], "d_model": D, "d_ff": 4 * D} | heads
dtypes = {"compute_dtype": given["dtype"], "residual_dtype": given.get("residual_dtype", "float32")}
rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-3)
run = yaml.safe_load((ROOT / "benchmarks/architectures.yaml").read_text())[given["architecture"]]
run["model"] |= sizes | dtypes
run["train"] |= {"steps": 100_000, "batch_size": B}
run["train"]["optimizer"] |= {"kind": "adamw", "learning_rates": rates, "beta2": 0.99, "eps": 1e-8}
run["train"]["schedule"] = {"kind": "cosine", "warmup_steps": 100, "decay_fraction": 1.0, "final": 0.1}
run["compute"] = given["compute"]
run |= {"sample": {"max_new_tokens": 1}, "evaluate": {"window": T, "stride": T}}
config = yaml.safe_load((ROOT / "config.yaml").read_text())
config["run"]["bench"] = run | {"base": "stdlib"}
settings = configfile.load(config).run["bench"]
mesh = sharding.make_mesh(settings.mesh, jax.devices())
trainer = training.make_trainer(settings.model, settings.train, settings.compute, given["vocabulary"], None, mesh)
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
