"""The step: what a batch is cut into, averaged weights, dropout, other dtypes."""

import math

import jax
import numpy as np
import optax
import pytest
from conftest import compute, make_trainer, shape, train, validation_loss
from layouts import GPT2

from makelm import config, sharding
from makelm.training import compiler_options

V = 64
windows_BT = np.random.default_rng(0).integers(0, V - 1, (8, 17)).astype(np.int32)


SMALL = GPT2 | {"init": "gpt2", "n_layers": 1}
ADAMW = {"optimizer": {"kind": "adamw"}}
FASTER = {
    "optimizer": {"kind": "adamw", "learning_rates": dict.fromkeys(("matrices", "embedding", "head", "vectors"), 0.02)}
}


def mesh_of(devices):
    return sharding.make_mesh(config.Mesh(data=1, fsdp=-1, tensor=1), jax.devices()[:devices])


def run(trainer, steps, windows=windows_BT):
    state, losses = trainer.initial_state(), []
    for step in range(steps):
        state, metrics = trainer.step(state, trainer.place(windows), step)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_batch_in_parts_and_on_more_devices_is_the_same_batch():
    model, windows = shape(**SMALL | {"dropout": 0.3}), windows_BT.copy()
    windows[3, 6:] = windows[6, 2:] = -1  # parts with unequal numbers of targets
    expected = run(make_trainer(model, train(**ADAMW), V, mesh_of(1)), 3, windows)[1]
    for parts, devices in ((4, 1), (2, 2)):
        losses = run(make_trainer(model, train(**ADAMW), V, mesh_of(devices), accumulate=parts), 3, windows)[1]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_dropout_is_another_at_each_step_and_absent_from_validation():
    still = train(optimizer={"learning_rates": dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-12)})
    model = shape(**SMALL | {"dropout": 0.5})
    trainer = make_trainer(model, still, V, mesh_of(1))
    state, losses = run(trainer, 3)
    assert len(set(losses)) == 3
    again = [validation_loss(trainer, state, windows_BT, 8) for _ in range(2)]
    without = make_trainer(shape(**SMALL), still, V, mesh_of(1))
    assert again[0] == again[1] == pytest.approx(validation_loss(without, state, windows_BT, 8), rel=1e-6)


def test_averaged_weights_are_those_of_optax_and_what_is_validated():
    trainer = make_trainer(shape(**SMALL), train(ema=0.9, **ADAMW), V, mesh_of(1))
    average = optax.ema(0.9, debias=True)
    state = trainer.initial_state()
    theirs = average.init(state["parameters"])
    for step in range(4):
        state, _ = trainer.step(state, trainer.place(windows_BT), step)
        expected, theirs = average.update(state["parameters"], theirs)
    result = trainer.result(state)
    for name, want in expected.items():
        np.testing.assert_allclose(result[name], want, rtol=1e-5, atol=1e-7, err_msg=name)
    plain = make_trainer(shape(**SMALL), train(**ADAMW), V, mesh_of(1))
    values = [
        validation_loss(plain, {"parameters": p, "optimizer": state["optimizer"]}, windows_BT, 8)
        for p in (result, state["parameters"])
    ]
    assert validation_loss(trainer, state, windows_BT, 8) == pytest.approx(values[0], rel=1e-6) != values[1]


def test_a_step_that_is_left_out_counts_in_no_average():
    settings = {"ema": 0.9, "bad_steps": "skip", "schedule": {"kind": "constant", "warmup_steps": 0}}
    never, always = (
        make_trainer(shape(**SMALL), train(max_gradient_norm=limit, **settings | ADAMW), V, mesh_of(1))
        for limit in (None, 1e-12)
    )
    expected, _ = run(never, 4)
    state = never.initial_state()
    for number, trainer in enumerate([always, always, never, always, never, never, never]):
        state, metrics = trainer.step(state, trainer.place(windows_BT), number)
        assert bool(metrics["skipped"]) == (trainer is always)
        if number == 1:  # of none but such steps there is no average
            np.testing.assert_array_equal(always.result(state)["embedding_VD"], state["parameters"]["embedding_VD"])
    for name, want in never.result(expected).items():
        np.testing.assert_array_equal(never.result(state)[name], want, err_msg=name)
    counts = {int(leaf) for leaf in jax.tree.leaves(state) if jax.numpy.issubdtype(leaf.dtype, jax.numpy.integer)}
    assert counts == {4, 7}  # the schedule's is that of all steps


def test_the_best_weights_come_out_and_the_last_ones_are_validated():
    trainer = make_trainer(shape(**SMALL), train(publish="best", **ADAMW), V, mesh_of(2))
    state, weights = trainer.initial_state(), []
    for step, loss in enumerate((3.0, math.nan, 2.0, 2.0, 2.5)):
        state, _ = trainer.step(state, trainer.place(windows_BT), step)
        weights.append(np.asarray(state["parameters"]["embedding_VD"]))
        state = trainer.keep_best(state, loss, step + 1)
        best = 0 if step < 2 else 2
        np.testing.assert_array_equal(trainer.result(state)["embedding_VD"], weights[best])
        assert int(state["best"]["step"]) == best + 1
    plain = make_trainer(shape(**SMALL), train(**ADAMW), V, mesh_of(2))
    last = {"parameters": state["parameters"], "optimizer": state["optimizer"]}
    assert validation_loss(trainer, state, windows_BT, 8) == validation_loss(plain, last, windows_BT, 8)


def test_one_batch_is_learned_by_heart():
    model = shape(**GPT2 | {"init": "gpt2", "d_model": 32, "d_head": 8, "d_ff": 64})
    settings = train(steps=150, **FASTER)
    losses = run(make_trainer(model, settings, V, mesh_of(1)), 150)[1]
    assert losses[0] == pytest.approx(np.log(V), abs=0.1)
    assert losses[-1] < 0.02


def test_weights_stored_in_bfloat16_learn_with_moments_in_float32():
    trainer = make_trainer(
        shape(**SMALL | {"parameter_dtype": "bfloat16", "compute_dtype": "bfloat16"}), train(**FASTER), V, mesh_of(1)
    )
    state, losses = run(trainer, 8)
    assert losses[-1] < losses[0] - 0.2
    assert {str(leaf.dtype) for leaf in state["parameters"].values()} == {"bfloat16"}
    moments = [leaf for leaf in jax.tree.leaves(state["optimizer"]) if leaf.ndim]
    assert {str(leaf.dtype) for leaf in moments} == {"float32"}


def test_a_schedule_can_be_set_to_another_step_without_touching_the_moments():
    trainer = make_trainer(shape(), train(), V, mesh_of(1))
    state, _ = run(trainer, 3)
    before = jax.tree_util.tree_leaves_with_path(jax.device_get(state["optimizer"]))
    moved = trainer.at_step(state, 11)
    after = jax.tree_util.tree_leaves_with_path(jax.device_get(moved["optimizer"]))
    trainer.step(moved, trainer.place(windows_BT), 11)  # no two leaves are one buffer
    changed = {path[-1].name for (path, old), (_, new) in zip(before, after, strict=True) if np.any(old != new)}
    counts = [int(leaf) for path, leaf in after if "count" in jax.tree_util.keystr(path) and leaf.ndim == 0]
    assert changed == {"count"}
    assert set(counts) == {3, 11}  # Adam's own count, of its bias correction, stays


@pytest.mark.parametrize(
    ("deterministic", "here", "asked"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_gpus_that_are_here_are_asked_for_one_order_of_sums(monkeypatch, deterministic, here, asked):
    mesh = mesh_of(1)
    assert compiler_options(compute(deterministic=deterministic), mesh) is None  # a CPU has one anyway
    monkeypatch.setattr(sharding, "platform", lambda mesh: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: list(mesh.devices.flat) if here else [])
    assert bool(compiler_options(compute(deterministic=deterministic), mesh)) == asked


def test_the_z_loss_pulls_the_normalizer_to_zero_and_is_not_reported():
    model = shape(**SMALL | {"logit_soft_cap": 20.0})
    plain, pulled = (make_trainer(model, train(z_loss=z, **ADAMW), V, mesh_of(1)) for z in (0.0, 1.0))
    state, other = plain.initial_state(), pulled.initial_state()
    first, second = (t.step(s, t.place(windows_BT), 0)[1] for t, s in ((plain, state), (pulled, other)))
    assert float(first["loss"]) == float(second["loss"])
    assert float(second["grad_norm"]) > float(first["grad_norm"])
