"""The loss: its gradient, what is masked, and what is added to it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import mean_loss, random_parameters, shape

from makelm import loss
from makelm.model import Skeleton

V = 50
keys = jax.random.split(jax.random.key(0), 3)
x_RD, head_VD, bias_V = (jax.random.normal(key, dims) for key, dims in zip(keys, [(7, 8), (V, 8), (V,)], strict=True))
targets_R = jnp.array([0, 3, loss.NONE, 9, 12, loss.NONE, V - 1])


@pytest.mark.parametrize(
    ("rows", "soft_cap", "z_loss", "bias"),
    [
        (512, None, 0.0, None),
        (3, None, 0.0, bias_V),
        (512, 3.0, 0.0, None),
        (3, None, 0.1, None),
        (3, 3.0, 0.1, bias_V),
    ],
    ids=["plain", "bias", "soft cap", "z-loss", "all"],
)
def test_head_loss_and_its_gradients_are_those_of_the_plain_formula(rows, soft_cap, z_loss, bias):
    terms = loss.Terms(z_loss, soft_cap)

    def plain(x, head, bias):
        logits = x @ head.T + (0 if bias is None else bias[None])
        logits = logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets_R, 0))
        counted = targets_R != loss.NONE
        z = jax.nn.logsumexp(logits, axis=-1) ** 2
        return jnp.sum(counted * (losses + z_loss * z)), counted * losses

    def own(x, head, bias):
        return loss.head_loss(x, head, bias, targets_R, terms, rows)

    arguments = (x_RD, head_VD, bias)
    for value, expected in zip(own(*arguments), plain(*arguments), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    which = (0, 1) if bias is None else (0, 1, 2)
    gradients, wanted = (jax.grad(lambda *a, f=f: f(*a)[0] / 5, which)(*arguments) for f in (own, plain))
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-6)


def test_logits_of_a_part_fit_a_cache_or_a_share_of_memory_and_products_stay_large():
    assert [loss.rows_at_a_time("cpu", rows) for rows in (65, 2048, 50304)] == [8192, 512, 512]
    assert [loss.rows_at_a_time("gpu", rows) for rows in (50304, 131072, 2**20)] == [4096, 2048, 512]


@pytest.mark.parametrize(("at_a_time", "rows"), [(4, 15), (16, 1024)], ids=["uneven", "even"])
def test_parts_of_a_batch_change_a_loss_by_rounding_only_and_the_heads_gradient_is_summed_in_float32(at_a_time, rows):
    """In bfloat16 a sum of 64 parts is off by more than the products' own rounding."""
    x, targets = jax.random.normal(keys[0], (rows, 8)), jax.random.randint(keys[1], (rows,), 0, V)

    def gradient(at_a_time, dtype):
        values = x.astype(dtype), head_VD.astype(dtype)
        found = jax.grad(lambda x, h: loss.head_loss(x, h, None, targets, loss.Terms(), at_a_time)[0], (0, 1))(*values)
        return [np.asarray(each, np.float32) for each in found]

    for part, whole in zip(gradient(at_a_time, jnp.float32), gradient(rows, jnp.float32), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)
    parts, whole = gradient(at_a_time, jnp.bfloat16)[1], gradient(rows, jnp.bfloat16)[1]
    np.testing.assert_allclose(parts, whole, rtol=2**-8, atol=2**-8)


def test_the_mean_is_over_what_is_predicted_and_nothing_else():
    model = shape()
    apply = jax.jit(lambda p, windows_BT: mean_loss(Skeleton(model, V)(p), windows_BT))
    mean = partial(apply, random_parameters(model, V))
    windows = np.random.default_rng(0).integers(0, V, (3, 13)).astype(np.int32)
    # T + 1 tokens are T predictions: the last position has a target, and there is none too many in the mean
    each = [float(mean(windows[i : i + 1])) for i in range(3)]
    assert float(mean(windows)) == pytest.approx(np.mean(each), rel=1e-5)
    filled = windows.copy()
    filled[2] = loss.NONE
    assert float(mean(filled)) == pytest.approx(np.mean(each[:2]), rel=1e-5)
    cut = windows[:1].copy()
    cut[0, 5:] = loss.NONE
    assert float(mean(cut)) == pytest.approx(float(mean(windows[:1, :5])), rel=1e-5)
