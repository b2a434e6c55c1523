"""What the stages left about the runs of a results folder.

Whatever is read was reached through a manifest, and a file that is not the one its manifest lists is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from makelm import ancestry, manifest
from makelm.ancestry import Gap, Node
from makelm.errors import UserError
from makelm.nested import flat
from makelm.stages import RUN_STAGES

NOT_OF_WEIGHTS = ("plan_run", "train_model")


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
        return self.names() | self.entry_keys() | self.own_keys()

    def names(self) -> dict[str, Any]:
        """Returns the run's corpus, or the weights of several, and its tokenizer."""
        keys = flat({"corpus": self.stages["train_model"].manifest["content"]["config"]["corpus"]})
        for node in self.ancestors:
            if node.stage == "train_tokenizer":
                keys["tokenizer"] = node.entry
        return keys

    def own_keys(self) -> dict[str, Any]:
        """Returns the keys of the run's sections."""
        keys = {}
        for node in self.stages.values():
            keys |= flat(unlocked(node))
        return keys

    def entry_keys(self) -> dict[str, Any]:
        """Returns the keys of what the run names, its corpora, tokenizer and tasks, and of what they were made with."""
        keys = {}
        several = sum(node.stage == "download_corpus" for node in self.ancestors) > 1
        for name, node in self.asked.items():
            keys |= flat(node.manifest["content"]["config"]["task"], f"task.{name}.")
        for node in self.ancestors:
            if node.stage == "download_task":  # there are several
                keys |= flat(unlocked(node)["task"], f"task.{node.entry}.")
                continue
            # of several corpora each has its own keys
            prefix = f"{node.entry}." if several and node.stage == "download_corpus" else ""
            keys |= flat(unlocked(node), prefix)
        return keys

    def corpus(self) -> str:
        """Returns the corpus by name, or those of a mixture with their weights."""
        corpus = self.stages["train_model"].manifest["content"]["config"]["corpus"]
        return corpus if isinstance(corpus, str) else ", ".join(f"{w:.4g} {name}" for name, w in corpus.items())


def unlocked(node: Node) -> dict:
    """Returns a stage's result keys without the versions of packages."""
    return {key: value for key, value in node.manifest["content"]["config"].items() if key != "locked"}


def read_runs(results: Path, names: Mapping[str, list[str]], read: Callable[[str, Path], Any]) -> list[Run]:
    """Returns the named runs, each with its tasks.

    `read` is told of every manifest used, by name and path, and refuses a missing one.
    """
    places = {}
    for name, tasks in names.items():
        places[name] = {stage: f"{stage}/{name}" for stage in RUN_STAGES}
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
        if node.stage not in NOT_OF_WEIGHTS and trained not in read:
            folder = results / node.stage / node.entry
            raise UserError(f"{folder} is not about the weights in train_model/{name}; run {node.stage} again")
    ancestors, gaps = ancestry.trace(list(every.values()), found)
    own = {node.manifest["digest"] for node in every.values()}
    stages = {stage: every[stage] for stage in RUN_STAGES}
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
