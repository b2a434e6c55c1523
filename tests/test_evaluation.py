"""Scores: each token once, with the context promised; sums over documents; bits per byte."""

from math import log

import numpy as np
import pytest
from conftest import forward, random_parameters, shape

from makelm import evaluation
from makelm.loss import token_losses
from makelm.model import Skeleton

V, EOT = 40, 39
MODEL = shape(context_length=8)
shard = np.concatenate([np.random.default_rng(1).integers(0, EOT, 21), [EOT], np.arange(9), [EOT]]).astype(np.uint16)


def score(window, stride, shards=(shard,), end_of_text=EOT, begin_of_text=None):
    skeleton, parameters = Skeleton(MODEL, V), random_parameters(MODEL, V)
    return evaluation.score(skeleton, parameters, shards, begin_of_text, end_of_text, window, stride)


def test_one_window_over_everything_equals_the_forward_pass():
    tokens = np.concatenate([[EOT], shard]).astype(np.int32)
    logits = forward(MODEL, V, random_parameters(MODEL, V), tokens[None, :-1])
    np.testing.assert_allclose(score(64, 64).losses, token_losses(logits, tokens[None, 1:])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (8, 1), (8, 3), (32, 32), (31, 5)])
def test_each_token_is_scored_once_with_its_full_context(window, stride):
    tokens = np.concatenate([[EOT], shard]).astype(np.int32)
    seen = np.zeros(len(shard), int)
    for inputs_BT, targets_BT, places in evaluation.batches(tokens, window, stride):
        for row, (start, skip, count) in enumerate(places):
            seen[start + skip : start + count] += 1
            np.testing.assert_array_equal(inputs_BT[row, :count], tokens[start : start + count])
            np.testing.assert_array_equal(targets_BT[row, :count], tokens[start + 1 : start + count + 1])
            assert skip == 0 or skip >= window - stride
    assert (seen == 1).all()


def test_more_context_changes_the_score_and_no_shape_is_left_to_the_data():
    assert score(8, 8).losses.sum() != score(8, 1).losses.sum()
    widths = {inputs.shape for inputs, _, _ in evaluation.batches(np.zeros(1000, np.int32), 8, 4)}
    assert widths == {(evaluation.BATCH, 8)}


def test_documents_end_with_their_end_of_text_and_go_on_over_shards():
    assert score(8, 8, (shard, shard)).documents.tolist() == [0] * 22 + [1] * 10 + [2] * 22 + [3] * 10


def test_without_end_of_text_the_first_token_has_no_score():
    assert len(score(8, 8, end_of_text=None).losses) == len(shard) - 1


def test_summary_counts_in_nats_per_token_and_bits_per_byte():
    scored = evaluation.Score(np.array([1.0, 3.0, 2.0, 2.0]), np.array([0, 0, 1, 1]))
    summary = evaluation.summarize(scored, 4, 10)
    assert summary["validation_loss"] == 2.0
    assert summary["bits_per_byte"] == pytest.approx(8 / log(2) / 10)
    assert summary["validation_loss_sem"] == 0.0  # both documents cost the same
    assert summary["tokens"] == 4


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


def test_documents_are_told_apart_by_either_end():
    tokens = np.array([5, 6, 9, 7, 9])
    assert evaluation.numbers(tokens, None, 9).tolist() == [0, 0, 0, 1, 1]
    assert evaluation.numbers(tokens, 9, None).tolist() == [0, 0, 1, 1, 2]
    assert evaluation.numbers(tokens, None, None).tolist() == [0] * 5
    begun = np.concatenate([[EOT], shard[:-1]]).astype(np.uint16)
    scored = score(8, 4, (begun,), end_of_text=None, begin_of_text=EOT)
    assert len(scored.losses) == len(begun) - 1 and set(scored.documents) == {0, 1}
