"""The curves of a training, thinned out to what a page can hold."""

import math

from makelm.report_runs import Run

CURVES = {
    "loss": "loss, nats per token",
    "validation_loss": "",  # drawn into the loss
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens per second",
}
# Of a loss curve the page holds at most so many points, all runs together: about 20 bytes each.
MOST_POINTS = 24_000
MOST_POINTS_PER_RUN = 4_000


def series(run: Run, runs: list[Run]) -> dict[str, dict]:
    """Returns curve -> steps, tokens and values, and the score on all validation documents as `final`."""
    most = min(MOST_POINTS_PER_RUN, MOST_POINTS // len(runs))
    tokens = {row["step"]: row["tokens"] for row in run.metrics}
    timed = [row | {"tokens": tokens.get(row["step"])} for row in run.timings]
    found = {}
    for name in CURVES:
        source = timed if name == "tokens_per_second" else run.metrics
        points = curve(source, name, most if name == "loss" else most // 4)
        found |= {name: points} if points else {}
    scored = run.metrics[run.summary["published_step"] - 1]
    final = {"step": scored["step"], "tokens": scored["tokens"], "value": number(run.scores["validation_loss"])}
    return {"curves": found, "final": final}


def curve(found: list[dict], name: str, most: int) -> dict | None:
    """Returns one curve of at most so many points: where there were more, each is the mean of several."""
    found = [row for row in found if name in row and row["tokens"] is not None]
    if not found:
        return None
    each = math.ceil(len(found) / most)
    groups = [found[start : start + each] for start in range(0, len(found), each)]
    return {
        "each": each,
        "step": [round(mean(group, "step")) for group in groups],
        "tokens": [round(mean(group, "tokens")) for group in groups],
        "value": [number(mean(group, name)) for group in groups],
    }


def mean(group: list[dict], name: str) -> float:
    """Returns the mean of a key; what is no number counts as not a number."""
    return sum(math.nan if row[name] is None else row[name] for row in group) / len(group)


def number(value: float) -> float | None:
    """Returns a number with the digits a chart can show; None for infinities and what is none."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
