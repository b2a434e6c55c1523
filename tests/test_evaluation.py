"""Scores: each token once, with the context promised; sums over documents; bits per byte."""

import functools
from math import log

import jax
import numpy as np
import pytest
from conftest import forward, random_parameters, shape

from makelm import config, evaluation, scoring, sharding, weights
from makelm.loss import token_losses
from makelm.model import Skeleton

V, EOT = 40, 39
MODEL = shape(context_length=8)
shard = np.concatenate([np.random.default_rng(1).integers(0, EOT, 21), [EOT], np.arange(9), [EOT]]).astype(np.uint16)


@functools.cache
def scorer(rows=scoring.ROWS, **sizes):
    mesh = sharding.make_mesh(
        config.Mesh(**{"data": 1, "fsdp": 1, "tensor": 1} | sizes), jax.devices()[: 8 if sizes else 1]
    )
    return scoring.Scorer(weights.Weights(MODEL, V, EOT, "", random_parameters(MODEL, V)), mesh, rows)


def score(window, stride, shards=(shard,), end_of_text=EOT, begin_of_text=None, of=None):
    return evaluation.score(of or scorer(), shards, begin_of_text, end_of_text, window, stride)


def test_one_window_over_everything_equals_the_forward_pass():
    tokens = np.concatenate([[EOT], shard]).astype(np.int32)
    logits = forward(MODEL, V, random_parameters(MODEL, V), tokens[None, :-1])
    np.testing.assert_allclose(score(64, 64).losses, token_losses(logits, tokens[None, 1:])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (8, 1), (8, 3), (32, 32), (31, 5)])
def test_each_token_is_scored_once_with_its_full_context(window, stride):
    tokens = np.concatenate([[EOT], shard]).astype(np.int32)
    seen = np.zeros(len(shard), int)
    for inputs_BT, targets_BT, places in evaluation.batches(tokens, window, stride, 16):
        for row, (start, skip, count) in enumerate(places):
            seen[start + skip : start + count] += 1
            np.testing.assert_array_equal(inputs_BT[row, :count], tokens[start : start + count])
            np.testing.assert_array_equal(targets_BT[row, :count], tokens[start + 1 : start + count + 1])
            assert skip == 0 or skip >= window - stride
    assert (seen == 1).all()


def test_more_context_changes_the_score_and_no_shape_is_left_to_the_data():
    assert score(8, 8).losses.sum() != score(8, 1).losses.sum()
    widths = {inputs.shape for inputs, _, _ in evaluation.batches(np.zeros(1000, np.int32), 8, 4, 16)}
    assert widths == {(16, 8)}


def test_documents_end_with_their_end_of_text_and_go_on_over_shards():
    assert score(8, 8, (shard, shard)).documents.tolist() == [0] * 22 + [1] * 10 + [2] * 22 + [3] * 10


def test_without_end_of_text_the_first_token_has_no_score():
    assert len(score(8, 8, end_of_text=None).losses) == len(shard) - 1


def test_summary_counts_in_nats_per_token_and_bits_per_byte():
    scored = evaluation.Score(np.array([1.0, 3.0, 2.0, 2.0]), np.array([0, 0, 1, 1]), np.zeros(4), 0)
    summary = evaluation.summarize(scored, 4, 10)
    assert summary["validation_loss"] == 2.0
    assert summary["bits_per_byte"] == pytest.approx(8 / log(2) / 10)
    assert summary["validation_loss_sem"] == 0.0  # both documents cost the same
    assert summary["tokens"] == 4
    assert summary["last_token_loss"] is None and summary["loss_by_position"] == {}, "no window is whole"


def test_a_training_that_diverged_has_scores_too():
    scored = evaluation.Score(np.full(4, 18967.2), np.array([0, 0, 1, 1]), np.zeros(4), 0)
    own = evaluation.summarize(scored, 4, 10)
    assert own["validation_loss"] == pytest.approx(18967.2) and own["perplexity"] is None
    mixed = evaluation.mixture({"a": own, "b": own}, {"a": 0.5, "b": 0.5}, {"a": 2.0, "b": 4.0}, [])
    assert mixed["perplexity"] is None
    assert evaluation.perplexity(709.7) == pytest.approx(1.65e308, rel=1e-2)


def test_the_scores_of_a_mixture_are_those_of_text_that_is_mixed_by_tokens():
    """Of 1,000 tokens 750 are a's, of 2 bytes each, and 250 are b's, of 4."""
    loss = {"a": 2 * log(2), "b": 6 * log(2)}  # 2 and 6 bits a token
    scores = {
        name: {"validation_loss": loss[name], "validation_loss_sem": 0.1, "tokens": 10, "bytes": size, "xz": xz}
        for name, size, xz in (("a", 20, 3.0), ("b", 40, 1.0))
    }
    found = evaluation.mixture(scores, {"a": 0.75, "b": 0.25}, {"a": 2.0, "b": 4.0}, ["xz"])
    assert found["bits_per_byte"] == pytest.approx((750 * 2 + 250 * 6) / (750 * 2 + 250 * 4))
    assert found["xz"] == pytest.approx((1500 * 3.0 + 1000 * 1.0) / 2500)
    assert found["validation_loss"] == pytest.approx(3 * log(2)) and found["perplexity"] == pytest.approx(8)
    assert (found["tokens"], found["bytes"]) == (20, 60) and found["sources"] == scores
    assert found["last_token_loss"] is None, "not all sources have it"
    more = {name: own | {"last_token_loss": loss[name], "train_loss": 1.0} for name, own in scores.items()}
    found = evaluation.mixture(more, {"a": 0.75, "b": 0.25}, {"a": 2.0, "b": 4.0}, ["xz"])
    assert found["last_token_loss"] == pytest.approx(3 * log(2)) and found["train_loss"] == pytest.approx(1)


def test_documents_are_told_apart_by_either_end():
    tokens = np.array([5, 6, 9, 7, 9])
    assert evaluation.numbers(tokens, None, 9).tolist() == [0, 0, 0, 1, 1]
    assert evaluation.numbers(tokens, 9, None).tolist() == [0, 0, 1, 1, 2]
    assert evaluation.numbers(tokens, None, None).tolist() == [0] * 5
    begun = np.concatenate([[EOT], shard[:-1]]).astype(np.uint16)
    scored = score(8, 4, (begun,), end_of_text=None, begin_of_text=EOT)
    assert len(scored.losses) == len(begun) - 1 and set(scored.documents) == {0, 1}


def test_positions_are_those_of_whole_windows():
    tokens = np.concatenate([[EOT], shard]).astype(np.int32)  # 32 to predict: four windows without a rest
    each = directly([tokens[at : at + 9] for at in range(0, 32, 8)])
    found = evaluation.summarize(score(8, 8), 32, 32)
    assert found["last_token_loss"] == pytest.approx(each[:, 7].mean(), rel=1e-4)
    expected = {"1-1": each[:, 0], "2-2": each[:, 1], "3-4": each[:, 2:4], "5-8": each[:, 4:]}
    assert found["loss_by_position"] == {name: pytest.approx(part.mean(), rel=1e-4) for name, part in expected.items()}
    short = evaluation.summarize(score(8, 8, (shard, shard[:5])), 38, 38)
    assert short["loss_by_position"] == found["loss_by_position"], "a window that is not whole is in none"
    half = evaluation.summarize(score(8, 4), 32, 32)
    assert half["last_token_loss"] != found["last_token_loss"], "windows that overlap are more windows"


@functools.cache
def model():
    return jax.jit(lambda parameters, tokens_BT: Skeleton(MODEL, V)(parameters)(tokens_BT))


def directly(windows):
    """Returns the losses of windows of 9 tokens, seven at most."""
    windows_BT = np.stack([*windows, *[np.zeros(9, np.int32)] * (7 - len(windows))]).astype(np.int32)
    logits = model()(random_parameters(MODEL, V), windows_BT[:, :-1])
    return np.asarray(token_losses(logits, windows_BT[:, 1:]))[: len(windows)]


def test_the_number_of_rows_and_the_mesh_change_no_score():
    """Rows are always as many, filled up; were they others, only the rounding of a sum would be."""
    alone, together = score(8, 4).losses, score(8, 4, (shard, shard)).losses
    np.testing.assert_array_equal(together, [*alone, *alone])  # whatever else is in a batch
    np.testing.assert_allclose(score(8, 4, of=scorer(rows=3)).losses, alone, rtol=2e-6)
    np.testing.assert_allclose(score(8, 4, of=scorer(data=2, fsdp=2, tensor=2)).losses, alone, rtol=1e-5)


def test_the_training_loss_is_that_of_windows_spread_over_all_shards():
    shards = [np.arange(17) % EOT, np.arange(100, 141) % EOT]  # of 8 tokens to predict: 2 windows and 5
    whole = [shards[0][at : at + 9] for at in (0, 8)] + [shards[1][at : at + 9] for at in range(0, 40, 8)]
    each = directly(whole).mean(axis=1)
    found = evaluation.train_estimate(scorer(), shards, 8, 100)
    assert found["train_windows"] == 7 and found["train_loss"] == pytest.approx(each.mean(), rel=1e-4)
    assert found["train_loss_sem"] == pytest.approx(each.std(ddof=1) / 7**0.5, rel=1e-3)
    some = evaluation.train_estimate(scorer(), shards, 8, 3)
    assert some["train_loss"] == pytest.approx(each[[0, 2, 4]].mean(), rel=1e-4)
    assert evaluation.train_estimate(scorer(), shards, 8, 1)["train_loss_sem"] is None, "one window has no spread"
    assert evaluation.train_estimate(scorer(), [np.arange(5)], 8, 3) == {}
