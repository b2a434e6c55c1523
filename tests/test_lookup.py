"""The gradient of looked-up rows as GPUs sum it: in one order; the same numbers as elsewhere, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_trainer, shape, train

from makelm import config, lookup, sharding

V, D = 64, 16
rng = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 2, 37, 256])
def test_rows_of_a_token_are_summed_and_others_are_zero(count):
    tokens = rng.zipf(1.3, count).astype(np.int32) % V
    tokens[0] = V - 1
    rows = rng.standard_normal((count, D)).astype(np.float32)
    want = np.zeros((V, D))
    np.add.at(want, tokens, rows.astype(np.float64))
    found = jax.jit(lookup.summed_by_token, static_argnums=2)(tokens, rows, V)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_many_rows_in_bfloat16_are_summed_in_float32():
    """Ones added up in bfloat16 stop at 256."""
    rows = jnp.ones((8, 64, 1), jnp.bfloat16)
    table = jnp.ones((3, 1), jnp.bfloat16)

    @jax.jit
    def gradient(rows):
        return jax.vjp(lambda table: lookup.summed_rows(None, table, jnp.zeros((8, 64), jnp.int32)), table)[1](rows)[0]

    np.testing.assert_array_equal(gradient(rows)[:, 0], [512, 0, 0])


@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_a_step_as_gpus_sum_is_that_of_others(axes, monkeypatch):
    devices = jax.devices()[: np.prod(axes)]
    mesh = sharding.make_mesh(config.Mesh(**dict(zip(("data", "fsdp", "tensor"), axes, strict=True))), devices)
    learned = {"positions": {"kind": "learned"}, "tie_embeddings": True, "init": "gpt2"}
    model, settings = shape(**learned), train(optimizer={"kind": "adamw"}, batch_size=8)
    windows = rng.zipf(1.5, (8, model.context_length + 1)).astype(np.int32) % V

    def after_two_steps():
        trainer = make_trainer(model, settings, V, mesh)
        state = trainer.initial_state()
        for number in range(2):
            state, metrics = trainer.step(state, trainer.place(windows), number)
        return state["parameters"], float(metrics["grad_norm"])

    plain, norm = after_two_steps()
    monkeypatch.setattr(sharding, "platform", lambda mesh: "gpu")
    summed, other = after_two_steps()
    assert other == pytest.approx(norm, rel=1e-5)
    for name, want in plain.items():
        np.testing.assert_allclose(summed[name], want, atol=2e-5, err_msg=name)
