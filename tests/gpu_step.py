"""Prints the step of a small model, compiled for a topology of GPUs that are not here: for the tests of plans."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from makelm import gpus

gpus.without_a_driver()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from conftest import make_trainer, shape, train  # noqa: E402

from makelm import config, sharding  # noqa: E402

jax.devices("cpu")
mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=-1, tensor=1), gpus.devices(sys.argv[1]))
model = shape(compute_dtype="bfloat16", n_layers=1, positions={"kind": "learned"}, context_length=64)
settings = train(optimizer={"kind": "adamw"}, batch_size=8)
trainer = make_trainer(model, settings, 512, mesh, attention="auto")
windows_BT = jax.ShapeDtypeStruct((8, 65), jnp.int32, sharding=jax.sharding.NamedSharding(mesh, sharding.BATCH))
print(trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile().as_text())
