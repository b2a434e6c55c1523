"""The Transformer: shapes, causality, the loss, and that decoding with a cache is the same computation."""

from functools import partial
from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import forward, random_parameters, shape

from makelm import loss
from makelm.model import Skeleton, empty_cache, initialize, shapes

V = 50
tokens_BT = np.random.default_rng(0).integers(0, V, (2, 12)).astype(np.int32)


@pytest.mark.parametrize("activation", ["swiglu", "relu_squared"])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_have_their_shape_and_are_finite(activation, qk_norm, tied):
    model = shape(activation=activation, qk_norm=qk_norm, tie_embeddings=tied)
    logits_BTV = forward(model, V, random_parameters(model, V), tokens_BT)
    assert logits_BTV.shape == (2, 12, V)
    assert logits_BTV.dtype == np.float32
    assert np.isfinite(logits_BTV).all()


def test_future_tokens_do_not_change_past_logits():
    model = shape()
    apply = jax.jit(lambda parameters, tokens: Skeleton(model, V)(parameters)(tokens))
    parameters = random_parameters(model, V)
    before = apply(parameters, tokens_BT)
    for position in (1, 5, 11):
        changed = tokens_BT.copy()
        changed[:, position] = (changed[:, position] + 1) % V
        after = apply(parameters, changed)
        np.testing.assert_array_equal(before[:, :position], after[:, :position])
        assert np.abs(before[:, position:] - after[:, position:]).max() > 1e-3


def test_loss_at_the_start_is_that_of_a_blind_guess():
    model = shape()
    value = jax.jit(lambda: loss.mean_loss(Skeleton(model, V)(initialize(model, V, 0)), tokens_BT))()
    assert abs(float(value) - log(V)) < 0.1


def test_initial_parameters_are_a_function_of_the_seed():
    model = shape()
    one, same, other = (jax.jit(partial(initialize, model, V, seed))() for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_head_loss_and_its_gradients_are_those_of_the_plain_cross_entropy():
    keys = jax.random.split(jax.random.key(0), 2)
    x_RD, head_VD = jax.random.normal(keys[0], (7, 8)), jax.random.normal(keys[1], (V, 8))
    targets_R = jnp.arange(7) * 3

    def plain(x_RD, head_VD):
        return jnp.mean(loss.token_losses((x_RD @ head_VD.T), targets_R))

    value, gradients = jax.value_and_grad(lambda *a: loss.head_loss(*a, targets_R), (0, 1))(x_RD, head_VD)
    expected, wanted = jax.value_and_grad(plain, (0, 1))(x_RD, head_VD)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-6)


def test_decoding_with_a_cache_equals_the_full_forward_pass():
    model = shape()
    skeleton, parameters = Skeleton(model, V), random_parameters(model, V)
    full_BTV = forward(model, V, parameters, tokens_BT)
    step = jax.jit(lambda p, tokens_B, position, cache: skeleton(p).decode(tokens_B, position, cache))
    cache = empty_cache(model, 2, model.context_length)
    for position in range(12):
        logits_BV, cache = step(parameters, tokens_BT[:, position], jnp.int32(position), cache)
        np.testing.assert_allclose(logits_BV, full_BTV[:, position], rtol=1e-4, atol=1e-5)


def test_a_full_cache_slides_over_the_last_positions():
    model = shape(context_length=4, n_layers=1)
    skeleton, parameters = Skeleton(model, V), random_parameters(model, V)
    cache = empty_cache(model, 2, 4)
    step = jax.jit(lambda p, tokens_B, position, cache: skeleton(p).decode(tokens_B, position, cache))
    for position in range(12):
        logits_BV, cache = step(parameters, tokens_BT[:, position], jnp.int32(position), cache)
    # one layer sees no further than its cache, and rotary positions only count distances
    expected_BV = forward(model, V, parameters, tokens_BT[:, 8:])[:, -1]
    np.testing.assert_allclose(logits_BV, expected_BV, rtol=1e-4, atol=1e-5)


def test_shapes_need_no_weights_and_are_those_of_the_weights():
    model = shape()
    planned, real = shapes(model, V), jax.jit(lambda: initialize(model, V, 0))()
    assert {name: leaf.shape for name, leaf in planned.items()} == {name: leaf.shape for name, leaf in real.items()}
    assert not any(isinstance(leaf, jax.Array) for leaf in planned.values())
