"""How runs compare in bits per byte, with each other and with what compresses text without learning."""

from makelm import lossy
from makelm.pages import COLOURS
from makelm.progress import score
from makelm.report_runs import Run

UNCOMPRESSED = 8  # bits per byte; a run that needs more has diverged, and would leave nothing of the other bars
BASELINES = {
    "xz_after_train_bits_per_byte": "xz that has read the training documents",
    "xz_bits_per_byte": "xz -9e",
}


def by_corpus(runs: list[Run]) -> dict[str, list[Run]]:
    """Returns the runs by their corpus: only those of one are scored on the same text, and compare."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.corpus(), []).append(run)
    return groups


def comparisons(runs: list[Run]) -> list[dict]:
    """Returns what is compared in bits per byte, by corpus: a sentence, and bars that have one scale for all.

    A bar of more bits per byte than there are is as long as the longest other one.
    """
    colours = {run.name: number % COLOURS for number, run in enumerate(runs)}
    found = [
        {"corpus": corpus, "verdict": verdict(group), "bars": bars(group, colours)}
        for corpus, group in by_corpus(runs).items()
    ]
    every = [bar for one in found for bar in one["bars"]]
    longest = max((bar["value"] for bar in every if bar["value"] <= UNCOMPRESSED), default=UNCOMPRESSED)
    for bar in every:
        bar["share"] = round(100 * min(bar["value"] / longest, 1), 2)
    return found


def best(runs: list[Run]) -> set[str]:
    """Returns the names of the runs that need the least bits per byte of those they compare with.

    None is of a tokenizer that loses text.
    """
    found = set()
    for group in by_corpus(runs).values():
        least = min(lossy.order(run.scores) for run in group)
        found |= {run.name for run in group if len(group) > 1 and lossy.order(run.scores) == least and not least[0]}
    return found


def bars(runs: list[Run], colours: dict[str, int]) -> list[dict]:
    """Returns the bars of one corpus, least first: the runs and the two baselines; scores of a lossy tokenizer last."""
    found, last = [], []
    for run in runs:
        lost = lossy.warning(lossy.lost_share(run.scores))
        label = f"{run.name}, {lost}" if lost else run.name
        bar = {"label": label, "value": run.scores["bits_per_byte"], "colour": colours[run.name]}
        (last if lost else found).append(bar)
    for key, label in BASELINES.items():
        # None: of ready tokens, which have no text
        for value in dict.fromkeys(run.scores[key] for run in runs if run.scores[key] is not None):
            found.append({"label": label, "value": value, "colour": None})
    return [bar for group in (found, last) for bar in sorted(group, key=lambda bar: bar["value"])]


def verdict(runs: list[Run]) -> str:
    """Returns the comparison with the baselines as a sentence, about the best run of a corpus."""
    run = min(runs, key=lambda run: lossy.order(run.scores))
    if lost := lossy.warning(lossy.lost_share(run.scores)):
        name = "Every run's" if len(runs) > 1 else f"{run.name}'s"
        return f"{name} bits per byte are {lost}, and compare with no others."
    ours = run.scores["bits_per_byte"]
    known = {label: run.scores[key] for key, label in BASELINES.items() if run.scores[key] is not None}
    parts = [f"{compare(ours, theirs)} {label}" for label, theirs in known.items()]
    name = f"The best run, {run.name}," if len(runs) > 1 else run.name
    return f"{name} needs {score(ours)} bits per byte{': ' if parts else ''}{', and '.join(parts)}."


def compare(ours: float, theirs: float) -> str:
    """Returns '1.9% less than' and the like."""
    change = 100 * (ours / theirs - 1)
    if abs(change) < 0.05:
        return "as much as"
    if change >= 100:
        return f"{ours / theirs:.1f} times as much as"
    return f"{abs(change):.1f}% {'less' if change < 0 else 'more'} than"
