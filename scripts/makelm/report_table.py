"""The table of runs: what varies between them, then what came out; nothing measured by a clock."""

import csv
import io
import json
from typing import Any

from makelm import lossy, report_tasks
from makelm.report_runs import Run


def varied(runs: list[Run]) -> list[str]:
    """Returns the dotted keys whose values are not the same in all runs."""
    keys = [run.keys() for run in runs]
    names = dict.fromkeys(name for one in keys for name in one)
    return [name for name in names if any(name not in one or one[name] != keys[0][name] for one in keys)]


def of_entries(runs: list[Run]) -> set[str]:
    """Returns the keys that come with a corpus, a tokenizer or a task, whose name says as much."""
    own = {name for run in runs for name in (*run.names(), *run.own_keys())}
    return {name for run in runs for name in run.entry_keys()} - own


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Returns the table of runs: what varies, then what came out; nothing measured by a clock.

    A run that does not have a key has no value of it.
    """
    names = varied(runs)
    table = []
    for run in runs:
        keys = run.keys()
        row = {"run": run.name, **{name: keys[name] for name in names if name in keys}}
        row |= {"parameters": run.plan["parameters"], "trained_tokens": run.summary["tokens"]}
        row |= {"steps": run.summary["steps"], "loss": run.summary["loss"]}
        scores = {key: value for key, value in run.scores.items() if isinstance(value, int | float)}
        ours = {"tokens": "validation_tokens", "bytes": "validation_bytes"}
        row |= {ours.get(key, key): value for key, value in scores.items()}
        for task, metric in report_tasks.columns_of(run.tasks):
            row[f"task/{task}/{metric}"] = run.tasks[task]["metrics"][metric]["value"]
        row |= {f"bits_per_byte/{name}": own["bits_per_byte"] for name, own in run.scores.get("sets", {}).items()}
        row |= {f"epochs/{name}": count for name, count in run.summary["epochs"].items()}
        row |= {f"bits_per_byte/{name}": own["bits_per_byte"] for name, own in run.scores.get("sources", {}).items()}
        table.append(row | {"parse_rate": run.facts("sample_model")["parse_rate"]})
    return table


def table_csv(runs: list[Run]) -> str:
    """Returns the table of runs as CSV."""
    table = rows(runs)
    columns = list(dict.fromkeys(["run", *varied(runs), *(name for row in table for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()})
    return text.getvalue()


def columns(names: list[str], entries: set[str], table: list[dict]) -> list[dict]:
    """Returns the columns of the table on the page, the keys of `entries` last; a CSV has room for more."""
    short = [name.rpartition(".")[2] for name in names]
    keys = []
    for name, last in zip(names, short, strict=True):
        label = last if short.count(last) == 1 else name
        keys.append({"key": name, "label": label, "title": name, "kind": kind(name, table)})
    chosen = [{"key": "run", "label": "run", "title": "run", "kind": "name"}]
    chosen += [column for column in keys if column["key"] not in entries]
    lossy_too = any(lossy.lost_share(row) for row in table)
    scored_on_train = any(row.get("train_loss") is not None for row in table)
    for key, label, sort in (
        ("bits_per_byte", "bits per byte", "score"),
        *([("lost_share", "text lost", "share")] if lossy_too else []),
        ("validation_loss", "validation loss", "score"),
        ("loss", "training loss", "score"),
        *([("train_loss", "training loss, after", "score")] if scored_on_train else []),
        ("perplexity", "perplexity", "score"),
        ("parse_rate", "parse", "share"),
        ("parameters", "parameters", "count"),
        ("trained_tokens", "tokens", "count"),
    ):
        chosen.append({"key": key, "label": label, "title": key, "kind": sort})
    return chosen + [column for column in keys if column["key"] in entries]


def kind(name: str, table: list[dict]) -> str:
    """Returns whether a key's column is one of numbers or of words, which stand at its other side."""
    values = [row[name] for row in table if row.get(name) is not None]
    return "number" if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) else "word"
