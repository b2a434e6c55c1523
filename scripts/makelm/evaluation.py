"""Scores of validation documents: every token once, each with as much before it as the stride leaves.

B batch, T window, N tokens, K documents
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np

from makelm.mixture import combined

BUCKETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # ends of the buckets of positions, as shares of a window
MEANS = ("last_token_loss", "train_loss")  # which a mixture has too, by tokens
Losses = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # scoring.Scorer, which has .rows too


@dataclass(frozen=True)
class Score:
    """What the tokens of the validation documents cost."""

    losses: np.ndarray  # losses_N, nats, float64, in the order of the shards
    documents: np.ndarray  # documents_N, the number of the document each belongs to
    positions: np.ndarray  # sums_T of the losses at each position of whole windows
    windows: int  # how many of these there are


def score(
    scorer: Losses,
    shards: Sequence[np.ndarray],
    begin_of_text: int | None,
    end_of_text: int | None,
    window: int,
    stride: int,
) -> Score:
    """Returns the loss of each token of the shards.

    Windows of `window` tokens move on by `stride`: a token is scored with at least window - stride tokens
    before it, as far as its shard has them. With an end-of-text token each shard's first token is scored
    after one; without, it has no context and is left out. One of the two tokens tells documents apart.
    """
    all_losses, all_documents, first = [], [], 0
    positions_T, windows = np.zeros(window), 0
    for shard in shards:
        tokens = np.asarray(shard).astype(np.int32)
        if end_of_text is not None:
            tokens = np.concatenate([np.array([end_of_text], np.int32), tokens])
        if len(tokens) < 2:
            continue
        scored = np.zeros(len(tokens) - 1)
        for inputs_BT, targets_BT, places in batches(tokens, window, stride, scorer.rows):
            losses_BT, _ = scorer(inputs_BT, targets_BT)
            for row, (start, skip, count) in enumerate(places):
                scored[start + skip : start + count] = losses_BT[row, skip:count]
                if count == window:
                    positions_T += losses_BT[row]
                    windows += 1
        documents = first + numbers(tokens[1:], begin_of_text, end_of_text)
        first = documents[-1] + 1
        all_losses.append(scored)
        all_documents.append(documents)
    return Score(np.concatenate(all_losses), np.concatenate(all_documents), positions_T, windows)


def train_estimate(scorer: Losses, shards: Sequence[np.ndarray], window: int, wanted: int) -> dict[str, float | None]:
    """Returns the mean loss of so many windows of training tokens, and its standard error by window (None: of one).

    They lie evenly over each shard's tokens, as many in each as its part of all tokens; fewer where there are fewer.
    """
    total = sum(max(len(shard) - 1, 0) // window for shard in shards)
    rows, before = [], 0
    for shard in shards:
        have = max(len(shard) - 1, 0) // window
        # of all windows one after the other every so many
        places = [number * total // min(wanted, total) for number in range(min(wanted, total))]
        for place in (place - before for place in places if before <= place < before + have):
            rows.append(np.asarray(shard[place * window : (place + 1) * window + 1]).astype(np.int32))
        before += have
    means = []
    for first in range(0, len(rows), scorer.rows):
        windows_BT = np.zeros((scorer.rows, window + 1), np.int32)
        here = rows[first : first + scorer.rows]
        windows_BT[: len(here)] = here
        means += scorer(windows_BT[:, :-1], windows_BT[:, 1:])[0].mean(axis=1)[: len(here)].tolist()
    if not means:
        return {}
    spread = float(np.std(means, ddof=1)) / sqrt(len(means)) if len(means) > 1 else None
    return {"train_loss": float(np.mean(means)), "train_loss_sem": spread, "train_windows": len(means)}


def numbers(tokens: np.ndarray, begin_of_text: int | None, end_of_text: int | None) -> np.ndarray:
    """Returns the number of the document that each token belongs to, from 0; all are one where no token parts them."""
    if end_of_text is not None:  # the end of a document belongs to it
        return np.concatenate([[0], np.cumsum(tokens == end_of_text)[:-1]])
    if begin_of_text is not None:
        return np.cumsum(tokens == begin_of_text)
    return np.zeros(len(tokens), np.int64)


def batches(tokens: np.ndarray, window: int, stride: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray, list]]:
    """Yields inputs_BT, targets_BT and for each row (start, tokens to skip, tokens there are).

    The last batch is filled up, so that there is one shape.
    """
    count = len(tokens) - 1
    starts = [0, *range(stride, max(count - (window - stride), stride), stride)] if count > window else [0]
    for first in range(0, len(starts), rows):
        inputs_BT = np.zeros((rows, window), np.int32)
        targets_BT = np.zeros((rows, window), np.int32)
        places = []
        for row, start in enumerate(starts[first : first + rows]):
            length = min(window, count - start)
            inputs_BT[row, :length] = tokens[start : start + length]
            targets_BT[row, :length] = tokens[start + 1 : start + length + 1]
            places.append((start, window - stride if start else 0, length))
        yield inputs_BT, targets_BT, places


def summarize(scored: Score, all_tokens: int, size: int) -> dict[str, float | int]:
    """Returns the scores; `all_tokens` are the tokens of the documents, scored or not, and `size` their bytes.

    The standard error is that of a ratio of sums over documents, which are what was drawn; where there is
    one document only it is that over its tokens.
    """
    tokens = len(scored.losses)
    mean = float(scored.losses.sum()) / tokens
    deviations = np.bincount(scored.documents, scored.losses - mean)
    documents = len(deviations)
    if documents < 2:
        deviations, documents = scored.losses - mean, tokens
    sem = sqrt(float((deviations**2).sum()) * documents / max(documents - 1, 1)) / tokens
    return {
        "validation_loss": mean,
        "validation_loss_sem": sem,
        "perplexity": perplexity(mean),
        "bits_per_byte": mean / log(2) * all_tokens / size,
        "tokens": tokens,
        "bytes": size,
        "last_token_loss": float(scored.positions[-1]) / scored.windows if scored.windows else None,
        "loss_by_position": by_position(scored),
    }


def perplexity(loss: float) -> float | None:
    """Returns e to the loss in nats; None where that is more than a float can be."""
    return exp(loss) if loss < log(sys.float_info.max) else None


def by_position(scored: Score) -> dict[str, float]:
    """Returns the mean loss of some positions of whole windows: '17-32' are those with 17 to 32 tokens to see."""
    ends = sorted({max(1, int(share * len(scored.positions))) for share in BUCKETS})
    starts = [0, *ends[:-1]] if scored.windows else []
    return {
        f"{start + 1}-{end}": float(scored.positions[start:end].sum()) / (end - start) / scored.windows
        for start, end in zip(starts, ends, strict=False)
    }


def weighted(values: Mapping[str, float | None], shares: Mapping[str, float]) -> float | None:
    """Returns the mean of values that have these shares, or None where one is missing."""
    if None in values.values():
        return None
    return sum(shares[name] * value for name, value in values.items()) / sum(shares.values())


def mixture(
    scores: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    bytes_per_token: Mapping[str, float],
    baselines: Sequence[str],
) -> dict[str, Any]:
    """Returns the scores of a mixture, with those of its sources under `sources`; all arguments by source.

    A mixture is endless text of which each source has its weight of the tokens, and each token as many bytes as
    those of the source's validation documents: the loss is the mean by tokens, bits per byte are all bits over all
    bytes, and those of the compressors (`baselines`) the mean by bytes, or None where a source has no text.
    """
    shares = {name: weights[name] * bytes_per_token[name] for name in scores}  # of the bytes; together `size`
    losses = combined(scores, weights)
    mean, size = losses["validation_loss"], sum(shares.values())
    return {
        **losses,
        "perplexity": perplexity(mean),
        "bits_per_byte": mean / log(2) / size,
        "tokens": sum(own["tokens"] for own in scores.values()),
        "bytes": sum(own["bytes"] for own in scores.values()),
        **{key: weighted({name: own[key] for name, own in scores.items()}, shares) for key in baselines},
        **{key: weighted({name: own.get(key) for name, own in scores.items()}, weights) for key in MEANS},
        "sources": {name: dict(own) for name, own in scores.items()},
    }
