"""Tasks in the report: beside what others reported, in the table, and in what a run was made of."""

import re
from pathlib import Path

import pytest
from report_tree import Tree, read, sample, steps, two_runs

from makelm import manifest, published, report, report_origin, report_table
from makelm.errors import UserError


@pytest.fixture
def asked(tmp_path) -> Path:
    """A third run, which was asked two tasks."""
    tree = Tree(two_runs(tmp_path))
    tree.data()
    tree.run("asked", 2e-3, steps(10), [sample()], 1.5)
    tree.asked("asked", "piqa", "piqa", {"acc": 0.6123, "acc_norm": 0.61})
    tree.asked("asked", "own", "imports", {"acc": 0.25})
    return tree.results


def test_tasks_stand_beside_what_others_reported_of_the_same_tasks(asked):
    html = report.page(read(asked, "small", "asked"), "today")
    table = html[html.index('<section id="tasks">') :].partition("</section>")[0]
    assert "0.612 <small>± 0.011, 3.1% seen</small>" in table and "0.250 <small>" in table
    assert table.count("<td>–</td>") >= 3, "the run that was asked nothing has none"
    of_gptj = re.search(r"GPT-J 6B.*?</tr>", table, re.DOTALL)[0]
    assert re.findall(r">([\d.]+|–)</td>", of_gptj) == ["0.765", "–", "–"], "of piqa's acc only"
    assert "GPT-3 175B*" in table and "not measured here: zero-shot table in the README of" in table
    assert 'id="tasks"' not in report.page(read(asked, "small"), "today")


def test_what_is_seen_in_train_is_explained_only_where_it_is_shown(asked):
    assert "seen is the share" in report.page(read(asked, "asked"), "today")
    tree = Tree(asked)
    tree.digests = {"train_model/asked/manifest": manifest.read(asked / "train_model/asked/manifest.json")["digest"]}
    for task in ("piqa", "own"):
        tree.asked("asked", task, task, {"acc": 0.6}, ngrams=0)
    page = report.page(read(asked, "asked"), "today")
    assert "with its standard error." in page and "% seen" not in page and "seen is the share" not in page


def test_others_figures_come_only_with_the_whole_task_and_each_as_the_source_has_it(asked):
    tree = Tree(asked)
    tree.digests = {"train_model/asked/manifest": manifest.read(asked / "train_model/asked/manifest.json")["digest"]}
    tree.asked("asked", "piqa", "piqa", {"acc": 0.6}, limit=10)
    assert "GPT-J" not in report.page(read(asked, "asked"), "today")
    known = {model.name: model.values for model in published.load().models}
    assert known["GPT-J 6B"] == {
        ("lambada_openai", "perplexity"): 3.99,
        ("lambada_openai", "acc"): 0.697,
        ("winogrande", "acc"): 0.653,
        ("hellaswag", "acc_norm"): 0.661,
        ("piqa", "acc"): 0.765,
    }


def test_tasks_are_in_the_table_and_in_the_chain_of_origin(asked):
    (run,) = read(asked, "asked")
    (row,) = report_table.rows([run])
    assert row["task/piqa/acc"] == 0.6123 and row["task/own/acc"] == 0.25
    keys = run.keys()
    assert keys["task.piqa.limit"] is None and keys["task.own.name"] == "imports"
    assert {(step["stage"], step["entry"]) for step in report_origin.steps(run)} >= {
        ("download_task", "own"),
        ("evaluate_task", "asked/own"),
    }


def test_a_task_of_other_weights_is_refused(asked):
    tree = Tree(asked)
    tree.data()
    tree.digests["train_model/asked/manifest"] = "0" * 64
    tree.asked("asked", "own", "imports", {"acc": 0.25})
    with pytest.raises(UserError, match="evaluate_task/asked/own is not about the weights in train_model/asked; run"):
        read(asked, "asked")
