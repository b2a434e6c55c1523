"""NanoDO's training step: its model, its loss and its optimizer, on one device; its own train.py needs TensorFlow."""

import sys
import time
import types
from functools import partial

from turn import serve, task

started = time.monotonic()
given = task()
sys.path.insert(0, given["checkout"])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402


def in_out(windows):
    """Does what nanodo.data.get_in_out does, whose module would bring TensorFlow: the last position has no target."""
    targets = jnp.concatenate([windows[:, 1:], jnp.zeros_like(windows[:, :1])], axis=1)
    return windows, targets, (targets != 0).astype(jnp.float32)


sys.modules["nanodo.data"] = types.SimpleNamespace(get_in_out=in_out)
import nanodo  # noqa: E402

nanodo.data = sys.modules["nanodo.data"]
from nanodo import loss as loss_lib  # noqa: E402
from nanodo import model as model_lib  # noqa: E402
from nanodo import optimizer as optimizer_lib  # noqa: E402

T, B = given["context"], given["batch"]
sizes = {"D": given["width"], "H": given["heads"], "L": T, "N": given["layers"], "F": 4 * given["width"]}
shape = model_lib.DoConfig(**sizes, V=given["vocabulary"], dtype=jnp.dtype(given["dtype"]), fsdp_enabled=False)
model = model_lib.TransformerDo(shape)
rates = {"peak_learning_rate": 1e-3, "init_learning_rate": 1e-4, "final_learning_rate": 1e-4}
plan = {"num_train_steps": 100_000, "warmup_steps": 100, "decay_type": "cosine", "weight_decay": 0.1}
settings = ml_collections.ConfigDict({"optimizer": "adamw", "b2": 0.99} | rates | plan)
optimizer = optimizer_lib.get_optimizer(settings)
parameters = jax.jit(model.init)(jax.random.key(0), jnp.ones((B, T), jnp.int32))["params"]
parameters = jax.tree.map(lambda p: getattr(p, "value", p), parameters, is_leaf=lambda p: hasattr(p, "value"))
state = optimizer.init(parameters)
tokens = np.memmap(given["tokens"], dtype=np.uint16, mode="r")
rows = tokens[: len(tokens) // T * T].reshape(-1, T)
rng = np.random.default_rng(0)
losses = []


@partial(jax.jit, donate_argnums=(0, 1))
def step(parameters, state, windows):
    objective = loss_lib.get_default_loss_fn(windows, model.apply, settings)
    (loss, _), gradients = jax.value_and_grad(objective, has_aux=True)(parameters)
    updates, state = optimizer.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), state, loss


def work(steps: int) -> None:
    global parameters, state
    for _ in range(steps):
        windows = rows[rng.integers(0, len(rows), B)].astype(np.int32)
        parameters, state, loss = step(parameters, state, windows)
    losses.append(float(loss))


built = time.monotonic()
work(1)
facts = {"compile_seconds": time.monotonic() - built, "parameters": sum(p.size for p in jax.tree.leaves(parameters))}
serve(facts | {"versions": {"jax": jax.__version__}, "first_loss": losses[0], "import_seconds": built - started}, work)
