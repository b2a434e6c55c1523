"""How runs compare in bits per byte, with each other and with what compresses text without learning."""

from makelm.pages import COLOURS
from makelm.report_runs import Run

BASELINES = {
    "xz_after_train_bits_per_byte": "xz that has read the training documents",
    "xz_bits_per_byte": "xz -9e",
}


def bars(runs: list[Run]) -> list[dict]:
    """Returns what is compared in bits per byte, least first: the runs and, once per corpus, the two baselines."""
    found = [
        {"label": run.name, "value": run.scores["bits_per_byte"], "colour": number % COLOURS}
        for number, run in enumerate(runs)
    ]
    corpora = {run.corpus() for run in runs}
    for key, label in BASELINES.items():
        values = dict.fromkeys((run.corpus(), run.scores[key]) for run in runs)
        for corpus, value in values:
            if value is None:  # of ready tokens, which have no text
                continue
            found.append({"label": f"{label}, {corpus}" if len(corpora) > 1 else label, "value": value, "colour": None})
    longest = max(bar["value"] for bar in found)
    return [bar | {"share": round(100 * bar["value"] / longest, 2)} for bar in sorted(found, key=lambda b: b["value"])]


def verdict(runs: list[Run]) -> str:
    """Returns the comparison with the baselines as a sentence, about the best run."""
    run = min(runs, key=lambda run: run.scores["bits_per_byte"])
    ours = run.scores["bits_per_byte"]
    known = {label: run.scores[key] for key, label in BASELINES.items() if run.scores[key] is not None}
    parts = [f"{compare(ours, theirs)} {label}" for label, theirs in known.items()]
    name = f"The best run, {run.name}," if len(runs) > 1 else run.name
    return f"{name} needs {ours:.3f} bits per byte{': ' if parts else ''}{', and '.join(parts)}."


def compare(ours: float, theirs: float) -> str:
    """Returns '1.9% less than' and the like."""
    change = 100 * (ours / theirs - 1)
    if abs(change) < 0.05:
        return "as much as"
    if change >= 100:
        return f"{ours / theirs:.1f} times as much as"
    return f"{abs(change):.1f}% {'less' if change < 0 else 'more'} than"
