"""The report: everything known about the runs of a results folder, as one page and as one table.

Whatever is shown was read through a manifest, and a file that is not the one its manifest lists is refused.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from makelm import ancestry, manifest, pages, report_tasks, samples_page
from makelm.ancestry import Gap, Node
from makelm.errors import UserError

STAGES = ("plan_run", "train_model", "sample_model", "evaluate_model", "export_model")
READS_WEIGHTS = ("sample_model", "evaluate_model", "export_model")
BASELINES = {
    "xz_after_train_bits_per_byte": "xz that has read the training documents",
    "xz_bits_per_byte": "xz -9e",
}
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
MOST_SAMPLES = 24
COLOURS = 8  # in pages.css


@dataclass(frozen=True)
class Run:
    """All that the stages left about one run."""

    name: str
    stages: dict[str, Node]
    plan: dict
    summary: dict
    scores: dict
    asked: dict[str, Node]  # task -> evaluate_task's
    tasks: dict[str, dict]  # task -> its scores
    samples: list[dict]
    metrics: list[dict]
    timings: list[dict]
    ancestors: list[Node]
    gaps: list[Gap]

    def facts(self, stage: str) -> dict:
        return self.stages[stage].manifest["content"]["facts"]

    def keys(self) -> dict[str, Any]:
        """Returns every result key that decided this run, dotted, its corpus and tokenizer first."""
        keys = flatten({"corpus": self.stages["train_model"].manifest["content"]["config"]["corpus"]})
        for node in self.ancestors:
            if node.stage == "train_tokenizer":
                keys["tokenizer"] = node.entry
        several = sum(node.stage == "download_corpus" for node in self.ancestors) > 1
        for name, node in self.asked.items():
            keys |= flatten(node.manifest["content"]["config"]["task"], f"task.{name}.")
        for node in [*self.ancestors, *self.stages.values()]:
            config = node.manifest["content"]["config"]
            if node.stage == "download_task":  # there are several
                keys |= flatten(config["task"], f"task.{node.entry}.")
                continue
            # of several corpora each has its own keys
            prefix = f"{node.entry}." if several and node.stage == "download_corpus" else ""
            keys |= flatten({key: value for key, value in config.items() if key != "locked"}, prefix)
        return keys

    def corpus(self) -> str:
        """Returns the corpus by name, or those of a mixture with their weights."""
        corpus = self.stages["train_model"].manifest["content"]["config"]["corpus"]
        return corpus if isinstance(corpus, str) else ", ".join(f"{w:.4g} {name}" for name, w in corpus.items())


# ---- reading


def read_runs(results: Path, names: Mapping[str, list[str]], read: Callable[[str, Path], Any]) -> list[Run]:
    """Returns the named runs, each with its tasks.

    `read` is told of every manifest used, by name and path, and refuses a missing one.
    """
    places = {}
    for name, tasks in names.items():
        places[name] = {stage: f"{stage}/{name}" for stage in STAGES}
        places[name] |= {f"evaluate_task {task}": f"evaluate_task/{name}/{task}" for task in tasks}
    for run in places.values():
        for place in run.values():
            read(place, results / place / "manifest.json")
    found = ancestry.index(results)
    return [read_run(results, name, places[name], found) for name in names]


def read_run(results: Path, name: str, places: dict[str, str], found: dict[str, Node]) -> Run:
    """Returns one run. Raises UserError where its parts do not belong together."""
    every = {
        part: Node(f"{place}/manifest.json", json.loads((results / place / "manifest.json").read_bytes()))
        for part, place in places.items()
    }
    trained = every["train_model"].manifest["digest"]
    for node in every.values():
        read = node.manifest["content"]["inputs"].values()
        if node.stage in (*READS_WEIGHTS, "evaluate_task") and trained not in read:
            folder = results / node.stage / node.entry
            raise UserError(f"{folder} is not about the weights in train_model/{name}; run {node.stage} again")
    ancestors, gaps = ancestry.trace(list(every.values()), found)
    own = {node.manifest["digest"] for node in every.values()}
    stages = {stage: every[stage] for stage in STAGES}
    asked = {part.partition(" ")[2]: node for part, node in every.items() if part not in stages}
    return Run(
        name=name,
        stages=stages,
        plan=json.loads(read_file(results, stages["plan_run"], "plan.json")),
        summary=json.loads(read_file(results, stages["train_model"], "summary.json")),
        scores=json.loads(read_file(results, stages["evaluate_model"], "scores.json")),
        asked=asked,
        tasks={task: json.loads(read_file(results, node, "scores.json")) for task, node in asked.items()},
        samples=read_lines(results, stages["sample_model"], "samples.jsonl"),
        metrics=read_lines(results, stages["train_model"], "metrics.jsonl"),
        timings=read_lines(results, stages["train_model"], "timings.jsonl"),
        ancestors=[node for node in ancestors if node.manifest["digest"] not in own],
        gaps=gaps,
    )


def read_file(results: Path, node: Node, name: str) -> bytes:
    """Returns the bytes of a file that a manifest lists. Raises UserError when they are others."""
    folder, content = (results / node.place).parent, node.manifest["content"]
    if content["files"].get(name, {}) is not None:  # None: measured times, which have no digest
        manifest.check_file(folder, content, name)
    elif not (folder / name).is_file():
        raise UserError(f"{folder / name} is missing; remove the manifest beside it and run {node.stage} again")
    return (folder / name).read_bytes()


def read_lines(results: Path, node: Node, name: str) -> list[dict]:
    """Returns the objects of a .jsonl file."""
    return [json.loads(line) for line in read_file(results, node, name).splitlines() if line]


# ---- keys and the table


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """Returns a nested configuration with dotted keys."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def varied(runs: list[Run]) -> list[str]:
    """Returns the dotted keys whose values are not the same in all runs."""
    keys = [run.keys() for run in runs]
    names = dict.fromkeys(name for one in keys for name in one)
    return [name for name in names if any(name not in one or one[name] != keys[0][name] for one in keys)]


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Returns the table of runs: what varies, then what came out; nothing measured by a clock."""
    names = varied(runs)
    table = []
    for run in runs:
        keys = run.keys()
        row = {"run": run.name, **{name: keys.get(name) for name in names}}
        row |= {"parameters": run.plan["parameters"], "trained_tokens": run.summary["tokens"]}
        row |= {"steps": run.summary["steps"], "train_loss": run.summary["loss"]}
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
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()})
    return text.getvalue()


# ---- the page


def page(runs: list[Run], written: str) -> str:
    """Returns the report; `written` says when."""
    names = varied(runs)
    views = [view(run, names, number) for number, run in enumerate(runs)]
    return pages.render(
        "report.html.j2",
        runs=views,
        written=written,
        bars=bars(runs),
        verdict=verdict(runs),
        tasks=report_tasks.table([(run.name, run.tasks) for run in runs]),
        columns=columns(names),
        table=rows(runs),
        best=best(rows(runs)),
        curves={name: label for name, label in CURVES.items() if label},
        series=[{"name": run.name, "colour": number % COLOURS, **series(run, runs)} for number, run in enumerate(runs)],
    )


def columns(names: list[str]) -> list[dict]:
    """Returns the columns of the table on the page: a CSV has room for more."""
    chosen = [{"key": "run", "label": "run", "title": "run", "kind": "name"}]
    short = [name.rpartition(".")[2] for name in names]
    for name, last in zip(names, short, strict=True):
        label = last if short.count(last) == 1 else name
        chosen.append({"key": name, "label": label, "title": name, "kind": "key"})
    for key, label, kind in (
        ("bits_per_byte", "bits per byte", "score"),
        ("validation_loss", "validation loss", "score"),
        ("train_loss", "train loss", "score"),
        ("perplexity", "perplexity", "score"),
        ("parse_rate", "parse", "share"),
        ("parameters", "parameters", "count"),
        ("trained_tokens", "tokens", "count"),
    ):
        chosen.append({"key": key, "label": label, "title": key, "kind": kind})
    return chosen


def best(table: list[dict]) -> float:
    """Returns the least bits per byte in the table."""
    return min(row["bits_per_byte"] for row in table)


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


def view(run: Run, names: list[str], number: int) -> dict:
    """Returns what the page shows of one run."""
    shown = run.samples[:: math.ceil(len(run.samples) / MOST_SAMPLES)]
    return {
        "name": run.name,
        "colour": number % COLOURS,
        "figures": figures(run),
        "samples": samples_page.views(shown),
        "common": samples_page.common(shown),
        "hidden_samples": len(run.samples) - len(shown),
        "config": config(run, names),
        "plan": plan(run),
        "steps": steps(run),
        "places": places(run),
        "gaps": run.gaps,
    }


def figures(run: Run) -> list[dict]:
    """Returns the run's numbers to look at first, each with what follows it small and what a hover adds."""
    scores = run.scores
    # of a training that was interrupted the last start knows its own time only
    took = max(run.stages["train_model"].manifest["made"]["seconds"], sum(row["seconds"] for row in run.timings))
    flops = run.plan["flops_per_token"] * run.summary["tokens"]
    # of a mixture, and other corpora
    sources = [*scores.get("sources", {}).items(), *scores.get("sets", {}).items()]
    common, of_documents = contamination(run)
    found = [
        ("bits per byte", f"{scores['bits_per_byte']:.3f}", "", f"{scores['bytes']:,} bytes of validation documents"),
        *[(f"of {name}", f"{own['bits_per_byte']:.3f}", "", f"{own['bytes']:,} bytes") for name, own in sources],
        (
            "validation loss",
            f"{scores['validation_loss']:.3f}",
            f"± {scores['validation_loss_sem']:.3f}",
            "nats per token",
        ),
        ("perplexity", f"{scores['perplexity']:.2f}", "", f"{scores['tokens']:,} validation tokens"),
        *more_losses(scores),
        ("validation seen in train", common, "", of_documents),
        ("samples that parse", samples_page.rate(run.samples), "", "as Python; of a cut text, what is complete"),
        ("parameters", pages.count(run.plan["parameters"]), "", f"{run.plan['parameters']:,}"),
        ("tokens trained on", pages.count(run.summary["tokens"]), "", f"{run.summary['tokens']:,}"),
        ("epochs", *epochs(run)),
        ("training took", pages.duration(took), "", f"{flops:.3g} floating-point operations"),
    ]
    return [dict(zip(("name", "value", "small", "hover"), one, strict=True)) for one in found if one[1]]


def more_losses(scores: dict) -> list[tuple[str, str, str, str]]:
    """Returns the figures of losses beside the validation loss, where there are any."""
    found = []
    if scores.get("last_token_loss") is not None:
        places = [f"token {place}: {loss:.3f}" for place, loss in scores.get("loss_by_position", {}).items()]
        found.append(("last token's loss", f"{scores['last_token_loss']:.3f}", "", "; ".join(places)))
    if scores.get("train_loss") is not None:
        sem = scores.get("train_loss_sem")
        of = f"{scores['train_windows']:,} windows of training tokens" if "train_windows" in scores else ""
        found.append(("training loss, after", f"{scores['train_loss']:.3f}", f"± {sem:.3f}" if sem else "", of))
    return found


def epochs(run: Run) -> tuple[str, str, str]:
    """Returns how often the corpus was gone through, or of a mixture the most often, and what a hover adds."""
    counts = run.summary["epochs"]
    each = [f"{count:.2f} of {name}" for name, count in counts.items()]
    return f"{max(counts.values()):.2f}", "at most" if len(counts) > 1 else "", ", ".join(each)


def contamination(run: Run) -> tuple[str, str]:
    """Returns (the share of validation that occurs in train, what that is); nothing where there is no text to tell."""
    scored = run.stages["evaluate_model"].manifest["content"]["inputs"].values()
    for node in run.ancestors:
        facts = node.manifest["content"]["facts"]
        if node.stage == "download_corpus" and node.manifest["digest"] in scored and "contamination" in facts:
            found, length = facts["contamination"]["validation"], facts["contamination"]["ngram"]
            over_half = f"{found['documents_over_half']:,} of {found['documents']:,} documents by more than half"
            return f"{100 * found['share']:.1f}%", f"{length} words in a row of validation documents; {over_half}"
    return "", ""


def config(run: Run, names: list[str]) -> dict[str, list[dict]]:
    """Returns section -> its keys; those that differ between the runs are marked."""
    sections: dict[str, list[dict]] = {}
    for name, value in run.keys().items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section or "data", []).append({"key": key, "value": value, "varied": name in names})
    architecture = run.facts("export_model")["architecture"]
    sections.setdefault("export", []).append({"key": "architecture", "value": architecture, "varied": False})
    return sections


def plan(run: Run) -> list[tuple[str, str]]:
    """Returns what plan_run foresaw."""
    memory = [(name, pages.size(amount)) for name, amount in run.plan["bytes_per_device"].items()]
    return [
        ("devices", str(run.plan["devices"])),
        ("FLOPs per token", pages.count(run.plan["flops_per_token"])),
        *memory,
    ]


def steps(run: Run) -> list[dict]:
    """Returns the run's stages from the corpus on; the shards of one corpus are one step."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in [*run.ancestors, *run.stages.values(), *run.asked.values()]:
        groups.setdefault((node.stage, node.entry), []).append(node)
    names = {node.manifest["digest"]: node for group in groups.values() for node in group}
    return [step(stage, entry, nodes, names) for (stage, entry), nodes in groups.items()]


def places(run: Run) -> list[str]:
    """Returns where the run's stages worked, each place once."""
    made = [node.manifest["made"] for node in [*run.ancestors, *run.stages.values(), *run.asked.values()]]
    return list(dict.fromkeys(f"{one['host']} ({one['system']}, Python {one['python']})" for one in made))


def step(stage: str, entry: str, nodes: list[Node], names: dict[str, Node]) -> dict:
    """Returns what the page shows of one stage: what it read, what it is, and how it came about."""
    contents = [node.manifest["content"] for node in nodes]
    made = [node.manifest["made"] for node in nodes]
    files = [entry for content in contents for entry in content["files"].values() if entry]
    inputs: dict[str, dict[str, None]] = {}  # what it read -> the digests, each once
    for digest in (digest for content in contents for digest in content["inputs"].values()):
        known = names.get(digest)
        name = f"{known.stage} {known.entry}" if known else "not in this results folder"
        inputs.setdefault(name, {})[digest] = None
    return {
        "stage": stage,
        "entry": entry,
        "digests": [node.manifest["digest"] for node in nodes],
        "inputs": {name: list(digests) for name, digests in inputs.items()},
        "seconds": sum(one["seconds"] for one in made),
        "memory": max(one["peak_memory_bytes"] for one in made),
        "bytes": sum(file["bytes"] for file in files),
        "files": len(files),
        "code": contents[0]["code"],
        "packages": contents[0]["packages"],
        "made": made[0],
        "started": made[0]["started"].replace("T", " ").replace("+00:00", " UTC"),
    }


# ---- curves


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
    last = run.metrics[-1]
    final = {"step": last["step"], "tokens": last["tokens"], "value": number(run.scores["validation_loss"])}
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
