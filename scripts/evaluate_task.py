"""Stage evaluate_task: weights + a task's questions -> scores.json.

lm-eval asks and counts; makelm answers. Beside the metrics stands how much of the questions occurs in the documents
that the run was trained on. With `logprobs: true` answers.jsonl has the answer to each question.
"""

import json
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from makelm import (
    at_hand,
    cli,
    manifest,
    scoring,
    sources,
    task_contamination,
    task_scores,
    tasks,
    tokenizer,
    weights,
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of its tokenizer")
    parser.add_argument("--task", type=Path, required=True, help="folder of a task (results/download_task/...)")
    corpus_help = f"folder of the documents it was trained on; {sources.HELP}"
    parser.add_argument("--corpus", nargs="+", metavar="FOLDER", required=True, help=corpus_help)


def evaluate_task(job: cli.Job) -> None:
    """Asks a run what is in a task."""
    tasks.check_installed()
    from makelm.task_model import TaskModel  # which needs lm-eval

    folders = sources.paths(job.args.corpus, job.config.corpora, "--corpus")
    corpora = {path: job.read_input(f"corpus/{name}", path / "manifest.json") for name, path in folders.items()}
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    brought = job.read_input("task", job.args.task / "manifest.json")
    for name in brought["files"]:
        manifest.check_file(job.args.task, brought, name)
    trained = weights.open_run(job.args.model, job.read_input)
    encoding = tokenizer.load(job.args.tokenizer)
    weights.check_tokenizer(trained, encoding.digest, str(job.args.tokenizer))
    with tempfile.TemporaryDirectory() as scratch:
        task = tasks.open_brought(job.args.task, brought["facts"], Path(scratch))
        questions = task_scores.questions(task, job.config.task.limit)
        facts = {path: content["facts"] for path, content in corpora.items()}
        common = task_contamination.measure(questions, facts, Path(scratch), job.args.cores, job.progress)
        model = TaskModel(scoring.Scorer(trained, at_hand.make_mesh(job.config.mesh)), encoding)
        scores, answers = task_scores.ask(task, model, job.config.task)
    scores |= {"contamination": common}
    (job.staging / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if job.config.task.logprobs:
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        (job.staging / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    job.say(describe(scores))
    job.publish({"metrics": {name: metric["value"] for name, metric in scores["metrics"].items()}})


def describe(scores: dict) -> str:
    """Returns the scores in one line."""
    found = [f"{name} {shown(metric)}" for name, metric in scores["metrics"].items()]
    common = scores["contamination"]
    seen = f"; {100 * common['share']:.1f}% of its 13-grams are in train" if common and common["ngrams"] else ""
    return f"{scores['task']}: {', '.join(found)}, {scores['documents']:,} documents{seen}"


def shown(metric: dict) -> str:
    """Returns a metric with its standard error, where there is one."""
    value = "none" if metric["value"] is None else f"{metric['value']:.4g}"
    return value if metric["stderr"] is None else f"{value} ± {metric['stderr']:.2g}"


if __name__ == "__main__":
    cli.run("evaluate_task", __doc__, evaluate_task, add_arguments)
