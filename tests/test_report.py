"""The report: one page that needs nothing else, of runs that were read through their manifests."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from page_elements import Elements
from report_tree import TASKS, Tree, read, sample, steps, two_corpora, two_runs

from makelm import (
    manifest,
    report,
    report_comparison,
    report_curves,
    report_figures,
    report_origin,
    report_table,
    stages,
)
from makelm.closure import SCRIPTS, closure
from makelm.errors import UserError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return two_runs(tmp_path)


def write_report(results: Path, *names: str) -> subprocess.CompletedProcess:
    config = json.dumps({"runs": names, "tasks": {name: TASKS.get(name, []) for name in names}, "locked": {}})
    script = [sys.executable, str(SCRIPTS / "write_report.py"), "--results", "results", "--out", "results/write_report"]
    return subprocess.run([*script, "--config", config], cwd=results.parent, capture_output=True, text=True)


def test_the_stage_writes_page_and_table_and_names_all_it_read(results):
    done = write_report(results, "small", "large")
    assert done.returncode == 0, done.stderr
    made = manifest.read(results / "write_report" / "manifest.json")["content"]
    assert made["files"]["report.html"] is None  # it holds measured times
    assert made["files"]["runs.csv"]
    assert set(made["inputs"]) == {f"{stage}/{run}" for stage in stages.RUN_STAGES for run in ("small", "large")}


def test_a_missing_manifest_is_one_line(results):
    (results / "evaluate_model" / "large" / "manifest.json").unlink()
    done = write_report(results, "small", "large")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "evaluate_model/large/manifest.json is missing" in done.stderr
    assert not (results / "write_report" / "report.html").exists()


def test_an_altered_file_is_refused(results):
    path = results / "evaluate_model" / "small" / "scores.json"
    path.write_text(path.read_text().replace("1.612", "1.112"))
    with pytest.raises(UserError, match=r"scores\.json is damaged.* run evaluate_model again"):
        read(results, "small")


def test_scores_of_other_weights_are_refused(results):
    tree = Tree(results)
    tree.data()
    tree.run("other", 1.0, steps(3), [sample()], 1.9)
    (results / "evaluate_model" / "other").rename(results / "evaluate_model" / "gone")
    (results / "evaluate_model" / "small").rename(results / "evaluate_model" / "other")
    with pytest.raises(UserError, match="evaluate_model/other is not about the weights in train_model/other"):
        read(results, "other")


def test_page_needs_no_network_and_no_other_file(results):
    page = report.page(read(results, "small", "large"), "today")
    for tag, attributes in Elements(page).tags:
        assert tag not in ("link", "img", "iframe", "base", "object")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import|fetch\(|import\(", page)


def test_without_a_script_nothing_is_told_of_curves_that_are_not_there(results):
    page = report.page(read(results, "small"), "today")
    assert re.search(r'id="controls" hidden>', page) and re.search(r'id="how" hidden>', page)
    assert "<noscript>" in page


def test_text_of_a_model_stays_text(results):
    page = report.page(read(results, "small"), "today")
    page.encode("utf-8")
    elements = Elements(page)
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert not any("onerror" in attributes for _, attributes in elements.tags)
    assert elements.text.count("</script><img src=x onerror=alert(1)>&amp; \"'␀␛[31m␍\u2028\ufffd{{ 7*7 }}") == 2


def test_numbers_of_every_run_stand_on_the_page(results):
    text = Elements(report.page(read(results, "small", "large"), "today")).text
    for expected in ("1.612", "1.431", "1.458", "1.869", "3.210 ± 0.012", "24.80", "1.27M", "20.5k", "3 min 28 s"):
        assert expected in text
    assert (
        "The best run, large, needs 1.431 bits per byte: 1.9% less than xz that has read the training documents" in text
    )


def test_a_run_that_diverged_spoils_nothing_of_the_others(results):
    runs = read(results, "small", "large")
    lost = replace(
        runs[0], scores=runs[0].scores | {"bits_per_byte": 13054.2, "validation_loss": 1.5e9, "perplexity": None}
    )
    lost.summary["loss"] = None
    far = replace(runs[0], name="far", scores=runs[0].scores | {"bits_per_byte": 377.6, "perplexity": 1.234e99})
    runs = [lost, far, runs[1]]
    text = Elements(page := report.page(runs, "today")).text
    assert "1.5e+09" in text and "1.23e+99" in text and "The best run, large, needs 1.431" in text
    assert not re.search(r"\d{20}|\bNone\b|\bnan\b|\binf\b", page)
    (found,) = report_comparison.comparisons(runs)
    assert [bar["label"] for bar in found["bars"]][-2:] == ["far", "small"]
    assert [bar["share"] for bar in found["bars"]] == [76.57, 78.01, 100, 100, 100]
    assert report_comparison.best(runs) == {"large"}
    (row,) = [row for row in csv.DictReader(report_table.table_csv(runs).splitlines()) if row["run"] == "small"]
    assert (row["perplexity"], row["loss"]) == ("", "")


def test_a_run_of_no_step_is_shown_beside_the_others_by_its_score(results):
    runs = read(results, "small", "large")
    as_it_was = replace(runs[0], metrics=[], timings=[])
    text = report.page([as_it_was, runs[1]], "today")
    drawn = json.loads(re.search(r'id="series">(.*?)</script>', text)[1])
    assert [(run["name"], run["colour"]) for run in drawn] == [("large", 1)]
    assert "small" in Elements(text).text and "Training</h2>" not in report.page([as_it_was], "today")


def test_a_training_that_was_interrupted_took_the_time_of_all_its_starts(results):
    (run,) = read(results, "small")
    parts = [row | {"seconds": 30.0} for row in run.timings]
    text = Elements(report.page([replace(run, timings=parts)], "today")).text
    assert len(parts) == 10 and "5 min 00 s" in text and "3 min 28 s" not in text.split("Training")[0]


def test_a_mixture_shows_each_source(results):
    (run,) = read(results, "small")
    run.stages["train_model"].manifest["content"]["config"]["corpus"] = {"other": 0.3, "tiny": 0.7}
    run.summary["epochs"] = {"other": 3.21, "tiny": 0.7}
    run.scores["sources"] = {
        name: run.scores | {"bits_per_byte": bits} for name, bits in (("other", 2.5), ("tiny", 1.5))
    }
    assert run.corpus() == "0.3 other, 0.7 tiny"
    assert (run.keys()["corpus.other"], run.keys()["corpus.tiny"]) == (0.3, 0.7)
    (row,) = report_table.rows([run])
    assert (row["bits_per_byte/other"], row["epochs/other"]) == (2.5, 3.21)
    shown = {figure["name"]: (figure["value"], figure["hover"]) for figure in report_figures.figures(run)}
    assert shown["epochs"] == ("3.21", "3.21 of other, 0.70 of tiny") and shown["of other"][0] == "2.500"


def test_the_stage_depends_on_its_templates_and_scripts():
    names = {path.name for path in closure("write_report").files}
    assert {"report.html.j2", "report.js", "pages.css", "pages.html.j2", "samples_page.py"} <= names


def test_curves_hold_every_run_and_thin_out_long_ones(results):
    page = report.page(read(results, "small", "large"), "today")
    series = json.loads(re.search(r'id="series">(.*?)</script>', page)[1])
    assert [one["name"] for one in series] == ["small", "large"]
    assert series[0]["curves"]["loss"]["value"][-1] == pytest.approx(3.541, abs=1e-3)
    assert series[0]["curves"]["validation_loss"]["step"] == [5, 10]
    assert series[0]["curves"]["tokens_per_second"]["value"][0] == 8001
    (run,) = read(results, "small")
    early = report_curves.series(replace(run, summary=run.summary | {"published_step": 5}), [run])
    assert early["final"]["step"] == 5  # the score is that of its weights
    thin = report_curves.curve(steps(1000), "loss", 100)
    assert (thin["each"], len(thin["value"]), thin["tokens"][0]) == (10, 100, 2048 * 5.5)
    broken = report_curves.curve(
        [{"step": 1, "tokens": 9, "loss": math.inf}, {"step": 2, "tokens": 9, "loss": None}], "loss", 9
    )
    assert broken["value"] == [None, None]


def test_provenance_leads_back_to_the_corpus_and_shows_gaps(results):
    run = read(results, "small")[0]
    assert [(step["stage"], len(step["digests"])) for step in report_origin.steps(run)] == [
        ("download_corpus", 1),
        ("train_tokenizer", 1),
        ("encode_shard", 2),
        *((stage, 1) for stage in stages.RUN_STAGES),
    ]
    assert not run.gaps
    (results / "train_tokenizer" / "bpe" / "manifest.json").unlink()
    run = read(results, "small")[0]
    assert {gap.name for gap in run.gaps} == {"train_tokenizer/bpe/manifest"}
    assert "which is no longer in this results folder" in report.page([run], "today")


def test_the_page_says_how_much_of_validation_occurs_in_train(results):
    run = read(results, "small")[0]
    found = {one["name"]: one for one in report_figures.figures(run)}["validation seen in train"]
    assert found["value"] == "3.1%" and found["hover"].startswith("13 words in a row of validation documents; 1 of 29")
    path = results / "evaluate_model" / "small" / "manifest.json"
    other = manifest.read(path)
    del other["content"]["inputs"]["download_corpus/tiny/manifest"]  # a corpus that only the tokenizer was learned from
    path.write_text(json.dumps(manifest.build(other["content"], other["made"])))
    assert "validation seen in train" not in report.page(read(results, "small"), "today")


@pytest.mark.parametrize(
    ("ours", "text"),
    [(1.4, "6.7% less than"), (1.5, "as much as"), (1.8, "20.0% more than"), (3.6, "2.4 times as much as")],
)
def test_comparisons_read_easily(ours, text):
    assert report_comparison.compare(ours, 1.5) == text


def test_a_corpus_without_text_has_no_baselines():
    runs = [
        SimpleNamespace(
            name=name,
            scores=dict.fromkeys(report_comparison.BASELINES) | {"bits_per_byte": bits},
            corpus=lambda: "tokens",
        )
        for name, bits in (("a", 1.5), ("b", 1.0))
    ]
    (found,) = report_comparison.comparisons(runs)
    assert [bar["label"] for bar in found["bars"]] == ["b", "a"]
    assert found["verdict"] == "The best run, b, needs 1.000 bits per byte."


def test_a_score_of_a_text_that_its_tokenizer_lost_in_part_is_never_best(tmp_path):
    runs = read(two_runs(tmp_path), "small", "large")
    runs[1].scores["lost_share"] = 0.25  # whose bits per byte are fewer
    assert report_comparison.best(runs) == {"small"}
    (found,) = report_comparison.comparisons(runs)
    assert found["verdict"].startswith("The best run, small, needs 1.612 bits per byte:")
    assert found["bars"][-1]["label"] == "large, without the 25.0% of the text that the tokenizer loses"
    page = report.page(runs, "today")
    assert page.count("without the 25.0% of the text that the tokenizer loses") == 2 and ">text lost<" in page
    runs[0].scores["lost_share"] = 0.5
    assert report_comparison.best(runs) == set()
    assert report_comparison.comparisons(runs)[0]["verdict"].startswith("Every run's bits per byte are without the 25")
    runs[0].scores["lost_share"] = runs[1].scores["lost_share"] = 1e-5
    assert report_comparison.best(runs) == {"large"} and ">text lost<" not in report.page(runs, "today")


def test_runs_compare_on_one_text_only(tmp_path):
    runs = read(two_corpora(tmp_path), "tiny-small", "tiny-large", "web-small", "web-large")
    found = report_comparison.comparisons(runs)
    assert [one["corpus"] for one in found] == ["tiny", "web"]
    assert [one["verdict"].split(" needs")[0] for one in found] == [
        "The best run, tiny-small,",
        "The best run, web-small,",
    ]
    assert [len(one["bars"]) for one in found] == [4, 4]
    assert report_comparison.best(runs) == {"tiny-small", "web-small"}
    assert report_comparison.best(runs[:3]) == {"tiny-small"}, "one alone is no best"
    text = Elements(report.page(runs, "today")).text
    assert "numbers of different texts do not compare" in text
    assert "do not compare" not in Elements(report.page(runs[:2], "today")).text
