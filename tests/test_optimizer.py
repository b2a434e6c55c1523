"""Schedules and which rule moves which parameter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_parameters, shape, train

from makelm import config, optimizer, parameter_table, sharding
from makelm.errors import UserError
from makelm.parameter_table import Parameter

V = 32


def update(settings, gradient_of=jnp.ones_like):
    parameters = random_parameters(shape(), V)
    made = optimizer.make_optimizer(settings, parameters)
    gradients = {name: gradient_of(parameter) for name, parameter in parameters.items()}
    updates, _ = jax.jit(lambda g, p: made.update(g, made.init(p), p))(gradients, parameters)
    return parameters, updates


@pytest.mark.parametrize(
    ("kind", "steps_and_factors"),
    [
        ("linear", {0: 1 / 11, 9: 10 / 11, 10: 1, 54: 1, 55: 1, 100: 0.1, 77.5: 0.55}),
        ("cosine", {0: 1 / 11, 10: 1, 55: 1, 77.5: 0.55, 100: 0.1}),
        ("constant", {0: 1 / 11, 10: 1, 100: 1}),
        ("rsqrt", {0: 1 / 11, 10: 1, 43: 0.5, 98: 1 / 3}),
    ],
)
def test_schedule_warms_up_holds_and_decays_to_final(kind, steps_and_factors):
    plan = {"kind": kind, "warmup_steps": 10, "decay_fraction": 0.5, "final": 0.1}
    factor = optimizer.schedule(train(steps=100, schedule=plan))
    for step, expected in steps_and_factors.items():
        assert float(factor(step)) == pytest.approx(expected, abs=1e-6), step


def test_a_decay_can_end_before_training_does_and_a_warm_up_begin_anywhere():
    plan = {"kind": "linear", "warmup_steps": 10, "warmup_start": 0.5, "decay_fraction": 1.0, "decay_end": 60}
    factor = optimizer.schedule(train(steps=100, schedule=plan | {"final": 0.2}))
    for step, expected in {0: 0.5, 5: 0.75, 10: 1, 35: 0.6, 60: 0.2, 99: 0.2}.items():
        assert float(factor(step)) == pytest.approx(expected), step


FLAT = {"kind": "constant", "warmup_steps": 0}


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("adamw", lambda options: optax.adamw(0.01, 0.9, 0.95, 1e-8, weight_decay=0.3)),
        ("lion", lambda options: optax.lion(0.01, 0.9, 0.95, weight_decay=0.3)),
        ("adafactor", lambda options: optax.adafactor(0.01, eps=1e-30, min_dim_size_to_factor=8)),
    ],
)
def test_a_few_steps_are_those_of_optax(kind, theirs, monkeypatch):
    rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 0.01)
    options = {"kind": kind, "learning_rates": rates, "decay": list(rates), "weight_decay": 0.3}
    if kind == "adafactor":
        options |= {"weight_decay": 0, "eps": 1e-30}
        monkeypatch.setattr(optimizer, "MIN_DIM_TO_FACTOR", 8)  # Optax's least is 128, more than there is here
    parameters = random_parameters(shape(), V)
    own, other = optimizer.make_optimizer(train(optimizer=options, schedule=FLAT), parameters), theirs(options)
    rng, mine, yours = np.random.default_rng(0), parameters, parameters
    own_state, other_state = own.init(mine), other.init(yours)
    for _ in range(3):
        gradients = {name: rng.standard_normal(p.shape, np.float32) for name, p in parameters.items()}
        updates, own_state = jax.jit(own.update)(gradients, own_state, mine)
        mine = optax.apply_updates(mine, updates)
        updates, other_state = jax.jit(other.update)(gradients, other_state, yours)
        yours = optax.apply_updates(yours, updates)
    for name in parameters:
        np.testing.assert_allclose(mine[name], yours[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "parts", [{"blocks.1.": 0.5, "mlp": 3.0, "loc": 7.0}, {"loc": 7.0, "mlp": 3.0, "blocks.1.": 0.5}]
)
def test_a_parameter_s_name_can_change_its_rate_and_spare_it_from_decay(parts):
    rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 0.01)
    options = {
        "kind": "adamw",
        "learning_rates": rates,
        "rate_multipliers": parts,
        "weight_decay": 0.1,
        "decay": ["matrices", "vectors"],
        "decay_except": ["query"],
    }
    parameters, updates = update(train(optimizer=options, schedule=FLAT), jnp.zeros_like)
    for name, factor in {"mlp.up_DF": 3, "attention.key_DKH": 7, "mlp_norm.scale": 3, "attention.query_DNH": 0}.items():
        for layer, times in (
            (0, factor),
            (1, 0.5 if factor else 0),
        ):  # the longest part that fits counts, then the later
            full = f"blocks.{layer}.{name}"
            np.testing.assert_allclose(updates[full], -1e-3 * times * parameters[full], rtol=1e-5, err_msg=full)
    assert not np.any(updates["embedding_VD"])


def test_independent_decay_does_not_grow_with_the_peak_learning_rate():
    rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 0.004)
    options = {"kind": "adamw", "learning_rates": rates, "weight_decay": 0.1, "independent_decay": True}
    parameters, updates = update(train(optimizer=options, schedule=FLAT), jnp.zeros_like)
    np.testing.assert_allclose(updates["embedding_VD"], -0.1 * parameters["embedding_VD"], rtol=1e-5)


def test_each_kind_of_parameter_moves_at_its_own_rate():
    rates = {"matrices": 1e-2, "embedding": 2e-2, "head": 3e-2, "vectors": 4e-2}
    flat = {"kind": "constant", "warmup_steps": 0}
    _, updates = update(train(optimizer={"kind": "adamw", "learning_rates": rates}, schedule=flat))
    for name, change in updates.items():
        # Adam's first step is the rate, whatever the gradient
        np.testing.assert_allclose(change, -rates[parameter_table.of(name).kind], rtol=1e-3, err_msg=name)


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


def test_a_parameter_that_the_table_does_not_have_is_named():
    with pytest.raises(
        UserError, match=r"^the model has a parameter blocks.0.mlp.new_DF, but .* has no new_DF: say there"
    ):
        optimizer.make_optimizer(train(), ["blocks.0.mlp.new_DF"])


def test_muon_takes_a_matrix_that_devices_share_along_one_of_its_dims(monkeypatch):
    monkeypatch.setitem(parameter_table.TABLE, "new_DE", Parameter("matrices", ("fsdp", None), inputs=1))
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=1), jax.devices()[:2])
    update = jax.random.normal(jax.random.key(0), (16, 4))
    alone, shared = (
        jax.jit(partial(optimizer.orthogonal, place, (jax.tree_util.DictKey("new_DE"),)))(update)
        for place in (None, mesh)
    )
    np.testing.assert_allclose(shared, alone, atol=1e-3)


@pytest.mark.parametrize("section", ["optimizer", "schedule"])
def test_a_kind_that_only_the_configuration_knows_is_an_error(section):
    """It must not train as another one."""
    settings = train(schedule=FLAT)
    unknown = getattr(settings, section).model_copy(update={"kind": "new"})
    with pytest.raises((KeyError, AssertionError), match="new"):
        update(settings.model_copy(update={section: unknown}))
