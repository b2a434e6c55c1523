"""The table of runs: what varies first, the same each time."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_tree import ADDRESS, RATES, read, two_corpora, two_runs

from makelm import report, report_table


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return two_runs(tmp_path)


def test_several_runs_are_a_table_with_what_varies_first(results):
    both, one = (report.page(read(results, *names), "today") for names in (("small", "large"), ("small",)))
    headers = re.findall(r"<th scope=\"col\".*?<button type=\"button\">(.*?)</button>", both)
    assert headers[:3] == ["run", "learning_rate", "bits per byte"]
    assert "<table" not in one


def test_the_loss_of_training_and_that_on_training_windows_after_it_are_two_columns(results):
    runs = read(results, "small", "large")
    names = [column["key"] for column in report_table.columns([], set(), report_table.rows(runs))]
    assert "loss" in names and "train_loss" not in names
    scored = replace(runs[0], scores=runs[0].scores | {"train_loss": 1.25})
    table = report_table.rows([scored, runs[1]])
    assert [(row["loss"], row.get("train_loss")) for row in table] == [
        (scored.summary["loss"], 1.25),
        (runs[1].summary["loss"], None),
    ]
    names = [column["key"] for column in report_table.columns([], set(), table)]
    assert names.index("train_loss") == names.index("loss") + 1


def test_columns_of_the_same_last_word_keep_their_whole_name():
    names = ["tokenizer.kind", "train.optimizer.kind", "train.seed"]
    labels = [column["label"] for column in report_table.columns(names, set(), [])]
    assert labels[1:4] == ["tokenizer.kind", "train.optimizer.kind", "seed"]


def test_what_a_sweep_varies_and_scores_stand_before_the_keys_of_corpora(tmp_path):
    names = ("tiny-small", "tiny-large", "web-small", "web-large")
    runs = read(two_corpora(tmp_path), *names)
    page = report.page(runs, "today")
    headers = re.findall(r"<th scope=\"col\" class=\"(\w+)\" title=\"([\w.]+)\"", page)
    assert headers[:5] == [
        ("name", "run"),
        ("word", "corpus"),
        ("word", "tokenizer"),
        ("number", "train.optimizer.learning_rate"),
        ("score", "bits_per_byte"),
    ]
    assert [title for _, title in headers[-4:]] == ["corpus.source", "corpus.shards", "corpus.url", "corpus.clean"]
    # a run without the key has a dash, null is a value; both on the side of their column
    last = [re.findall(r"<td class=\"(\w+)\" data-value=\".*?\">(.*?)</td>", row)[-4:] for row in page.split("<tr")]
    assert [("word", "local"), ("number", "2"), ("word", "–"), ("number", "–")] in last
    assert [("word", "url"), ("number", "–"), ("word", f"&#39;{ADDRESS}&#39;"), ("number", "null")] in last
    assert f'title="&#39;{ADDRESS}&#39;"' in page  # of which the column may show the beginning only
    columns = report_table.table_csv(runs).split("\n")[0].split(",")
    assert columns.index("corpus.url") < columns.index("bits_per_byte")


def test_table_is_the_same_each_time_and_holds_no_time(results):
    first = report_table.table_csv(read(results, "small", "large"))
    for path in results.rglob("*.json"):
        built = json.loads(path.read_text())
        if "made" in built:
            built["made"] |= {"seconds": 1.0, "peak_memory_bytes": 5, "host": "other"}
            path.write_text(json.dumps(built))
    assert report_table.table_csv(read(results, "small", "large")) == first
    rows = list(csv.DictReader(first.splitlines()))
    assert [row["run"] for row in rows] == ["small", "large"]
    assert [float(row["train.optimizer.learning_rate"]) for row in rows] == list(RATES.values())
    assert rows[0]["bits_per_byte"] == "1.612" and rows[0]["validation_tokens"] == "98765"
    assert not any("second" in column or "time" in column for column in rows[0])
