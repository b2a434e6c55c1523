"""Schedules and which rule moves which parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_parameters, shape, train

from makelm import optimizer

V = 32


def update(settings, gradient_of=jnp.ones_like):
    parameters = random_parameters(shape(), V)
    made = optimizer.make_optimizer(settings)
    gradients = {name: gradient_of(parameter) for name, parameter in parameters.items()}
    updates, _ = jax.jit(lambda g, p: made.update(g, made.init(p), p))(gradients, parameters)
    return parameters, updates


@pytest.mark.parametrize(
    ("kind", "steps_and_factors"),
    [
        ("linear", {0: 1 / 11, 9: 10 / 11, 10: 1, 54: 1, 55: 1, 100: 0.1, 77.5: 0.55}),
        ("cosine", {0: 1 / 11, 10: 1, 55: 1, 77.5: 0.55, 100: 0.1}),
        ("constant", {0: 1 / 11, 10: 1, 100: 1}),
    ],
)
def test_schedule_warms_up_holds_and_decays_to_final(kind, steps_and_factors):
    plan = {"kind": kind, "warmup_steps": 10, "decay_fraction": 0.5, "final": 0.1}
    factor = optimizer.schedule(train(steps=100, schedule=plan))
    for step, expected in steps_and_factors.items():
        assert float(factor(step)) == pytest.approx(expected, abs=1e-6), step


def test_each_kind_of_parameter_moves_at_its_own_rate():
    rates = {"matrices": 1e-2, "embedding": 2e-2, "head": 3e-2, "norms": 4e-2}
    flat = {"kind": "constant", "warmup_steps": 0}
    _, updates = update(train(optimizer={"kind": "adamw", "learning_rates": rates}, schedule=flat))
    for name, change in updates.items():
        # Adam's first step is the rate, whatever the gradient
        np.testing.assert_allclose(change, -rates[optimizer.kind(name)], rtol=1e-3, err_msg=name)


def test_muon_makes_the_update_of_a_matrix_nearly_orthogonal_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    flat = {"kind": "constant", "warmup_steps": 0}
    settings = train(schedule=flat)
    _, updates = update(settings, lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32))
    query = np.asarray(updates["blocks.0.attention.query_DNH"]).reshape(16, -1) / 0.02
    values = np.linalg.svd(query, compute_uv=False) / np.sqrt(32 / 16)
    assert values.min() > 0.4 and values.max() < 1.7
    np.testing.assert_allclose(np.abs(updates["final_norm.scale"]), 0.01, rtol=1e-3)


def test_weight_decay_spares_the_norms():
    settings = train(optimizer={"kind": "adamw", "weight_decay": 0.5}, schedule={"kind": "constant", "warmup_steps": 0})
    parameters, updates = update(settings, jnp.zeros_like)
    rate = settings.optimizer.learning_rates
    np.testing.assert_allclose(updates["embedding_VD"], -0.5 * rate.embedding * parameters["embedding_VD"], rtol=1e-5)
    assert not np.any(updates["final_norm.scale"])


def test_clipping_bounds_the_global_norm():
    settings = train(optimizer={"clip_norm": 1.0})
    size = sum(p.size for p in random_parameters(shape(), V).values())
    _, updates = update(settings)
    _, expected = update(train(), lambda p: jnp.full_like(p, size**-0.5))
    for name in updates:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-4, atol=1e-7)
