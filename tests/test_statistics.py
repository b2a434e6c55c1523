"""Numbers of every tensor are those of the step that follows, and attention logits those of the formula."""

import jax
import numpy as np
import pytest
from conftest import forward, make_trainer, random_parameters, shape, train

from makelm import config, sharding
from makelm.loop import noise_scale
from makelm.loss import NONE
from makelm.model import Skeleton

V, END = 32, 31
windows_BT = np.random.default_rng(0).integers(0, V, (8, 17)).astype(np.int32)


def mesh_of(fsdp):
    return sharding.make_mesh(config.Mesh(data=1, fsdp=fsdp, tensor=1), jax.devices()[:fsdp])


def test_statistics_are_those_of_the_step_that_follows():
    trainer = make_trainer(shape(init="gpt2", n_layers=1), train(optimizer={"kind": "adamw"}), V, mesh_of(1))
    state, windows = trainer.initial_state(), trainer.place(windows_BT)
    statistics = {name: float(value) for name, value in trainer.statistics(state, windows, 0).items()}
    assert "largest_attention_logit/00" in statistics
    before = jax.device_get(state["parameters"])
    after, metrics = trainer.step(state, windows, 0)
    for name, value in jax.device_get(after["parameters"]).items():
        added, size = value - before[name], before[name].size
        np.testing.assert_allclose(statistics[f"update_rms/{name}"], np.linalg.norm(added) / size**0.5, rtol=1e-3)
        np.testing.assert_allclose(
            statistics[f"weight_rms/{name}"], np.linalg.norm(before[name]) / size**0.5, rtol=1e-4
        )
    squares = sum(statistics[f"gradient_rms/{name}"] ** 2 * leaf.size for name, leaf in before.items())
    np.testing.assert_allclose(squares**0.5, metrics["grad_norm"], rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_largest_attention_logit_is_that_of_the_formula(masked):
    model = shape(n_layers=1, qk_norm=None, positions={"kind": "none"}, mask_documents=masked)
    parameters = random_parameters(model, V)
    tokens_BT = windows_BT[:2, :16].copy()
    tokens_BT[:, ::3] = END
    (found,) = Skeleton(model, V, END)(parameters).largest_logits(tokens_BT)
    x = parameters["embedding_VD"][tokens_BT]
    x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * parameters["blocks.0.attention_norm.scale"]
    q = np.einsum("btd,dnh->btnh", x, parameters["blocks.0.attention.query_DNH"])
    k = np.repeat(np.einsum("btd,dnh->btnh", x, parameters["blocks.0.attention.key_DKH"]), 2, axis=2)
    logits = np.einsum("btnh,bsnh->bnts", q, k) / 8**0.5
    document = np.cumsum(tokens_BT == END, axis=1)
    seen = np.tri(16, dtype=bool) & ((document[:, :, None] == document[:, None]) | (not masked))
    largest = np.where(seen[:, None], logits, -np.inf).max()
    assert masked == (largest < logits[..., np.tri(16, dtype=bool)].max())
    np.testing.assert_allclose(found, largest, rtol=1e-4)
    assert forward(model, V, parameters, tokens_BT).shape == (2, 16, V)


def rows_of(targets: list[int]) -> np.ndarray:
    """Returns windows that predict so many tokens each."""
    return np.where(np.arange(17)[None] <= np.array(targets)[:, None], windows_BT, NONE).astype(np.int32)


@pytest.mark.parametrize("targets", [[16] * 8, [16, 2, 5, 16, 16, 1, 9, 16]])
def test_noise_of_gradients_is_that_of_single_rows(targets):
    """With a row in each part, the variance is that over rows of one gradient, and the batch's power is freed of it.

    Rows that predict less count less, as a part of n tokens has an n-th of one token's variance.
    """
    windows_BT = rows_of(targets)
    model, settings = shape(n_layers=1, init="gpt2"), train(optimizer={"kind": "adamw"})
    trainer = make_trainer(model, settings, V, mesh_of(1), accumulate=8)
    metrics = trainer.step(trainer.initial_state(), trainer.place(windows_BT), 0)[1]
    one = make_trainer(model, train(optimizer={"kind": "adamw"}, batch_size=1), V, mesh_of(1))
    state = [one.initial_state() for _ in range(8)]
    rows = [one.step(state[row], one.place(windows_BT[row : row + 1]), 0)[1] for row in range(8)]
    norms = [float(row["grad_norm"]) for row in rows]
    small, big = np.average(np.square(norms), weights=targets), float(metrics["grad_norm"]) ** 2
    total = sum(targets)
    np.testing.assert_allclose(metrics["gradient_variance"], (small - big) / (8 / total - 1 / total), rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_power"], (8 * big - small) / 7, rtol=1e-3)


def test_the_noise_scale_is_a_ratio_of_sums():
    rows = [{"gradient_variance": 8.0, "gradient_power": -1.0}, {"gradient_variance": 4.0, "gradient_power": 3.0}]
    assert noise_scale(rows) == 6.0
    assert noise_scale(rows[:1]) is None
    assert noise_scale([{"loss": 1.0}, {"gradient_variance": None, "gradient_power": None}]) is None
