"""The report: one page that needs nothing else, and a table without times."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from makelm import manifest, pages, published, report, samples_page
from makelm.closure import SCRIPTS, closure
from makelm.errors import UserError

HOSTILE = "</script><img src=x onerror=alert(1)>&amp; \"'\x00\x1b[31m\r\u2028\ud800{{ 7*7 }}"
RATES = {"small": 1e-3, "large": 5e-3}
TASKS = {"asked": ["piqa", "own"]}  # run -> its tasks


class Tree:
    """A results folder as the stages would leave it, with files of a few lines."""

    def __init__(self, results: Path):
        self.results = results
        self.digests: dict[str, str] = {}

    def put(self, folder: str, files: dict, inputs: list[str], config: dict, facts: dict, name="manifest") -> None:
        """Writes files and their manifest; inputs are the places of other manifests."""
        place = self.results / folder
        place.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (place / file).write_text(text)
        listed = manifest.describe_files(place, frozenset({"timings.jsonl"}))
        content = {
            "stage": folder.split("/")[0],
            "config": config | {"locked": {"numpy": "2.0"}},
            "inputs": {place: self.digests[place] for place in inputs},
            "code": "c0de" * 16,
            "packages": {"numpy": "2.0"},
            "files": {file: listed[file] for file in files},
            "facts": facts,
        }
        made = {
            "host": "bench-7",
            "system": "Linux x86_64",
            "python": "3.11.7",
            "device": "cpu",
            "cores": 2,
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 208.4,
            "peak_memory_bytes": 1_234_000_000,
            "command": f"python scripts/{folder.split('/')[0]}.py --out results/{folder}",
        }
        built = manifest.build(content, made)
        (place / f"{name}.json").write_text(json.dumps(built))
        self.digests[f"{folder}/{name}"] = built["digest"]

    def data(self) -> None:
        """Writes a corpus, a tokenizer and two token shards."""
        seen = {"share": 0.0312, "documents": 29, "documents_over_half": 1}
        facts = {"contamination": {"ngram": 13, "validation": seen}}
        self.put("download_corpus/tiny", {}, [], {"corpus": {"source": "local", "shards": 2}}, facts)
        corpus, tokenizer = "download_corpus/tiny/manifest", "train_tokenizer/bpe/manifest"
        self.put("train_tokenizer/bpe", {}, [corpus], {"tokenizer": {"kind": "bpe", "vocab_size": 512}}, {})
        for shard in ("00000", "00001"):
            self.put("encode_shard/tiny/bpe", {}, [corpus, tokenizer], {}, {"shard": shard}, shard)

    def run(self, name: str, rate: float, metrics: list[dict], samples: list[dict], bits: float) -> None:
        """Writes what the five stages of a run leave."""
        tokenizer, trained = "train_tokenizer/bpe/manifest", f"train_model/{name}/manifest"
        shards = [f"encode_shard/tiny/bpe/{shard}" for shard in ("00000", "00001")]
        corpus = "download_corpus/tiny/manifest"
        train = {"steps": len(metrics), "optimizer": {"learning_rate": rate}}
        last, memory = metrics[-1], {"parameters": 5_080_000, "optimizer": 10_160_000}
        plan = {"parameters": 1_270_016, "flops_per_token": 8.1e6, "bytes_per_device": memory, "devices": 1}
        self.put(f"plan_run/{name}", {"plan.json": json.dumps(plan)}, [tokenizer], {"mesh": {"fsdp": -1}}, {})
        summary = {"steps": len(metrics), "tokens": last["tokens"], "loss": last["loss"], "parameters": 1_270_016}
        summary["epochs"] = {"tiny": 0.98}
        timings = [{"step": row["step"], "seconds": 0.24, "tokens_per_second": 8000 + row["step"]} for row in metrics]
        files = {"metrics.jsonl": lines(metrics), "timings.jsonl": lines(timings), "summary.json": json.dumps(summary)}
        self.put(
            f"train_model/{name}", files, shards, {"corpus": "tiny"} | {"model": {"d_model": 128}, "train": train}, {}
        )
        facts = {"samples": len(samples), "parse_rate": 0.5}
        self.put(f"sample_model/{name}", {"samples.jsonl": lines(samples)}, [trained, tokenizer], {}, facts)
        scores = {"validation_loss": 3.21, "validation_loss_sem": 0.012, "perplexity": 24.8, "bits_per_byte": bits}
        scores |= {"xz_bits_per_byte": 1.869, "xz_after_train_bits_per_byte": 1.458, "tokens": 98765, "bytes": 307393}
        self.put(f"evaluate_model/{name}", {"scores.json": json.dumps(scores)}, [trained, *shards, corpus], {}, {})
        self.put(f"export_model/{name}", {}, [trained, tokenizer], {}, {"architecture": "Qwen3ForCausalLM"})

    def asked(self, name: str, task: str, known_as: str, metrics: dict[str, float], limit: int | None = None) -> None:
        """Writes what is left of asking a run a task."""
        self.put(f"download_task/{task}", {}, [], {"task": {"name": known_as, "file": None}}, {})
        seen = {"ngram": 13, "ngrams": 1000, "share": 0.031, "documents_with_any": 9}
        scores = {
            "task": known_as,
            "version": 1.0,
            "documents": 1838,
            "num_fewshot": 0,
            "limit": limit,
            "prompts": "ab",
        }
        scores |= {"metrics": {m: {"value": v, "stderr": 0.011} for m, v in metrics.items()}, "contamination": seen}
        inputs = [f"train_model/{name}/manifest", f"download_task/{task}/manifest"]
        keys = {"task": {"num_fewshot": None, "limit": limit, "logprobs": False}}
        self.put(f"evaluate_task/{name}/{task}", {"scores.json": json.dumps(scores)}, inputs, keys, {})


def lines(objects: list[dict]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


def steps(amount: int) -> list[dict]:
    """Returns a loss that falls, with a validation loss now and then."""
    found = []
    for step in range(1, amount + 1):
        row = {"step": step, "tokens": step * 2048, "loss": 3 + 4 * math.exp(-step / 5), "learning_rate": 1e-3}
        found.append(row | {"grad_norm": 1.5} | ({"validation_loss": 3.4} if step % 5 == 0 else {}))
    return found


def sample(prompt: str = "def ", text: str = "f(): pass\n", parses: bool | None = True) -> dict:
    options = {"temperature": 0.8, "top_k": None, "top_p": 0.95, "max_new_tokens": 200}
    return {
        "prompt": prompt,
        "text": text,
        "tokens": [1, 2, 3],
        "finish_reason": "length",
        "seed": 0,
        "index": 1,
        "parses": parses,
        "options": options,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs that differ in the learning rate."""
    tree = Tree(tmp_path / "results")
    tree.data()
    tree.run("small", RATES["small"], steps(10), [sample(), sample(HOSTILE, HOSTILE, False)], 1.612)
    tree.run("large", RATES["large"], steps(10), [sample(parses=None)], 1.431)
    return tree.results


def read(results: Path, *names: str) -> list[report.Run]:
    return report.read_runs(results, {name: TASKS.get(name, []) for name in names}, lambda name, path: None)


def write_report(results: Path, *names: str) -> subprocess.CompletedProcess:
    config = json.dumps({"runs": names, "tasks": {name: TASKS.get(name, []) for name in names}, "locked": {}})
    script = [sys.executable, str(SCRIPTS / "write_report.py"), "--results", "results", "--out", "results/write_report"]
    return subprocess.run([*script, "--config", config], cwd=results.parent, capture_output=True, text=True)


class Elements(HTMLParser):
    """Collects the tags of a page, the text of its scripts, and the text a person sees."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.inside = "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += data


def test_the_stage_writes_page_and_table_and_names_all_it_read(results):
    done = write_report(results, "small", "large")
    assert done.returncode == 0, done.stderr
    made = manifest.read(results / "write_report" / "manifest.json")["content"]
    assert made["files"]["report.html"] is None  # it holds measured times
    assert made["files"]["runs.csv"]
    assert set(made["inputs"]) == {f"{stage}/{run}" for stage in report.STAGES for run in ("small", "large")}


# ---- tasks


@pytest.fixture
def asked(results) -> Path:
    """A third run, which was asked two tasks."""
    tree = Tree(results)
    tree.data()
    tree.run("asked", 2e-3, steps(10), [sample()], 1.5)
    tree.asked("asked", "piqa", "piqa", {"acc": 0.6123, "acc_norm": 0.61})
    tree.asked("asked", "own", "imports", {"acc": 0.25})
    return results


def test_tasks_stand_beside_what_others_reported_of_the_same_tasks(asked):
    html = report.page(read(asked, "small", "asked"), "today")
    table = html[html.index('<section id="tasks">') :].partition("</section>")[0]
    assert "0.612 <small>± 0.011, 3.1% seen</small>" in table and "0.250 <small>" in table
    assert table.count("<td>–</td>") >= 3, "the run that was asked nothing has none"
    of_gptj = re.search(r"GPT-J 6B.*?</tr>", table, re.DOTALL)[0]
    assert re.findall(r">([\d.]+|–)</td>", of_gptj) == ["0.765", "–", "–"], "of piqa's acc only"
    assert "GPT-3 175B*" in table and "not measured here: zero-shot table in the README of" in table
    assert 'id="tasks"' not in report.page(read(asked, "small"), "today")


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
    (row,) = report.rows([run])
    assert row["task/piqa/acc"] == 0.6123 and row["task/own/acc"] == 0.25
    keys = run.keys()
    assert keys["task.piqa.limit"] is None and keys["task.own.name"] == "imports"
    assert {(step["stage"], step["entry"]) for step in report.steps(run)} >= {
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


def test_text_of_a_model_stays_text(results):
    page = report.page(read(results, "small"), "today")
    page.encode("utf-8")
    elements = Elements(page)
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert not any("onerror" in attributes for _, attributes in elements.tags)
    assert elements.text.count("</script><img src=x onerror=alert(1)>&amp; \"'␀␛[31m␍\u2028\ufffd{{ 7*7 }}") == 2


def test_samples_page_shows_prompt_continuation_and_whether_it_parses():
    page = samples_page.render("r", [sample(), sample(HOSTILE, "x = (", False)], {"tokenizer": "bpe"})
    assert '<span class="prompt">def </span><span class="text">f(): pass\n</span></pre>' in page
    text = Elements(page).text
    assert "✓ parses as Python" in text and "✗ does not parse" in text and "1 of 2" in text
    assert "cut at 3 tokens" in text and "temperature 0.8, top_p 0.95" in text
    assert samples_page.rate([sample(parses=None)]) == ""


def test_tokens_are_shaded_by_how_sure_the_model_was():
    sure = sample(text="ab<c") | {"logprobs": [-0.1, -0.2, -9.0], "pieces": ["a", "b", "<c"], "finish_reason": "stop"}
    assert samples_page.shaded(sure) == [(0, "ab"), (4, "<c")]
    page = samples_page.render("r", [sure], {})
    assert '<span class="text"><span class="p0">ab</span><span class="p4">&lt;c</span></span></pre>' in page
    assert "ended by a stop string after 3 tokens" in page and '<span class="p1">50 %</span>' in page
    assert "50 %" not in samples_page.render("r", [sample()], {})


def test_numbers_of_every_run_stand_on_the_page(results):
    text = Elements(report.page(read(results, "small", "large"), "today")).text
    for expected in ("1.612", "1.431", "1.458", "1.869", "3.210 ± 0.012", "24.80", "1.27M", "20.5k", "3 min 28 s"):
        assert expected in text
    assert (
        "The best run, large, needs 1.431 bits per byte: 1.9% less than xz that has read the training documents" in text
    )


def test_a_training_that_was_interrupted_took_the_time_of_all_its_starts(results):
    (run,) = read(results, "small")
    parts = [row | {"seconds": 30.0} for row in run.timings]
    text = Elements(report.page([replace(run, timings=parts)], "today")).text
    assert len(parts) == 10 and "5 min 00 s" in text and "3 min 28 s" not in text.split("Training")[0]


def test_several_runs_are_a_table_with_what_varies_first(results):
    both, one = (report.page(read(results, *names), "today") for names in (("small", "large"), ("small",)))
    headers = re.findall(r"<th scope=\"col\".*?<button type=\"button\">(.*?)</button>", both)
    assert headers[:3] == ["run", "learning_rate", "bits per byte"]
    assert "<table" not in one


def test_a_mixture_shows_each_source(results):
    (run,) = read(results, "small")
    run.stages["train_model"].manifest["content"]["config"]["corpus"] = {"other": 0.3, "tiny": 0.7}
    run.summary["epochs"] = {"other": 3.21, "tiny": 0.7}
    run.scores["sources"] = {
        name: run.scores | {"bits_per_byte": bits} for name, bits in (("other", 2.5), ("tiny", 1.5))
    }
    assert run.corpus() == "0.3 other, 0.7 tiny"
    assert (run.keys()["corpus.other"], run.keys()["corpus.tiny"]) == (0.3, 0.7)
    (row,) = report.rows([run])
    assert (row["bits_per_byte/other"], row["epochs/other"]) == (2.5, 3.21)
    shown = {figure["name"]: (figure["value"], figure["hover"]) for figure in report.figures(run)}
    assert shown["epochs"] == ("3.21", "3.21 of other, 0.70 of tiny") and shown["of other"][0] == "2.500"


def test_columns_of_the_same_last_word_keep_their_whole_name():
    labels = [column["label"] for column in report.columns(["tokenizer.kind", "train.optimizer.kind", "train.seed"])]
    assert labels[1:4] == ["tokenizer.kind", "train.optimizer.kind", "seed"]


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
    thin = report.curve(steps(1000), "loss", 100)
    assert (thin["each"], len(thin["value"]), thin["tokens"][0]) == (10, 100, 2048 * 5.5)
    broken = report.curve(
        [{"step": 1, "tokens": 9, "loss": math.inf}, {"step": 2, "tokens": 9, "loss": None}], "loss", 9
    )
    assert broken["value"] == [None, None]


def test_provenance_leads_back_to_the_corpus_and_shows_gaps(results):
    run = read(results, "small")[0]
    assert [(step["stage"], len(step["digests"])) for step in report.steps(run)] == [
        ("download_corpus", 1),
        ("train_tokenizer", 1),
        ("encode_shard", 2),
        *((stage, 1) for stage in report.STAGES),
    ]
    assert not run.gaps
    (results / "train_tokenizer" / "bpe" / "manifest.json").unlink()
    run = read(results, "small")[0]
    assert {gap.name for gap in run.gaps} == {"train_tokenizer/bpe/manifest"}
    assert "which is no longer in this results folder" in report.page([run], "today")


def test_the_page_says_how_much_of_validation_occurs_in_train(results):
    run = read(results, "small")[0]
    found = {one["name"]: one for one in report.figures(run)}["validation seen in train"]
    assert found["value"] == "3.1%" and found["hover"].startswith("13 words in a row of validation documents; 1 of 29")
    path = results / "evaluate_model" / "small" / "manifest.json"
    other = manifest.read(path)
    del other["content"]["inputs"]["download_corpus/tiny/manifest"]  # a corpus that only the tokenizer was learned from
    path.write_text(json.dumps(manifest.build(other["content"], other["made"])))
    assert "validation seen in train" not in report.page(read(results, "small"), "today")


def test_table_is_the_same_each_time_and_holds_no_time(results):
    first = report.table_csv(read(results, "small", "large"))
    for path in results.rglob("*.json"):
        built = json.loads(path.read_text())
        if "made" in built:
            built["made"] |= {"seconds": 1.0, "peak_memory_bytes": 5, "host": "other"}
            path.write_text(json.dumps(built))
    assert report.table_csv(read(results, "small", "large")) == first
    rows = list(csv.DictReader(first.splitlines()))
    assert [row["run"] for row in rows] == ["small", "large"]
    assert [float(row["train.optimizer.learning_rate"]) for row in rows] == list(RATES.values())
    assert rows[0]["bits_per_byte"] == "1.612" and rows[0]["validation_tokens"] == "98765"
    assert not any("second" in column or "time" in column for column in rows[0])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9,999"), (20_480, "20.5k"), (999_999, "1M"), (1_270_016, "1.27M"), (2e12, "2T")],
)
def test_counts_read_easily(number, text):
    assert pages.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.2, "12 s"), (208.4, "3 min 28 s"), (18_120, "5 h 02 min")]
)
def test_durations_read_easily(seconds, text):
    assert pages.duration(seconds) == text


@pytest.mark.parametrize(
    ("ours", "text"),
    [(1.4, "6.7% less than"), (1.5, "as much as"), (1.8, "20.0% more than"), (3.6, "2.4 times as much as")],
)
def test_comparisons_read_easily(ours, text):
    assert report.compare(ours, 1.5) == text


@pytest.mark.parametrize(("value", "text"), [(1e-8, "1e-8"), (0.02, "0.02"), (None, "null"), (["a\n", 1], "'a\\n', 1")])
def test_values_read_as_in_the_config_file(value, text):
    assert pages.plain(value) == text


def test_a_corpus_without_text_has_no_baselines():
    runs = [
        SimpleNamespace(
            name=name, scores=dict.fromkeys(report.BASELINES) | {"bits_per_byte": bits}, corpus=lambda: "tokens"
        )
        for name, bits in (("a", 1.5), ("b", 1.0))
    ]
    assert [bar["label"] for bar in report.bars(runs)] == ["b", "a"]
    assert report.verdict(runs) == "The best run, b, needs 1.000 bits per byte."
