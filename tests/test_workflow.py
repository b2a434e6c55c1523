"""The workflow: what a change reruns (the table in the README), and what `make` says."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import planner
import pytest
import run_workflow
from checkout import ENVIRONMENT, TINY

TRAINED = {"train_model", "sample_model", "evaluate_model", "export_model", "write_report"}
PLANNED = {"plan_run", *TRAINED}
TOKENIZED = {"train_tokenizer", "encode_shard", *PLANNED}
ALL = {"download_corpus", *TOKENIZED}
NOTHING: set[str] = set()

# change -> what reruns; the key is changed by an override, which is checked like the file
KEYS = {
    "run.tiny.train.optimizer.learning_rates.matrices=3e-2": TRAINED,
    "run.tiny.train.seed=2": TRAINED,
    "run.tiny.train.bad_steps=skip": PLANNED,
    "run.tiny.train.optimizer.rate_multipliers.mlp=0.5": PLANNED,
    "run.tiny.train.order=random": TRAINED,
    "run.tiny.model.n_layers=1 run.tiny.model.n_kv_heads=2": PLANNED,  # the two change places
    "run.tiny.mesh.fsdp=1 run.tiny.compute.remat=true": {"plan_run", "write_report"},
    "run.tiny.hardware.memory_gb=64": {"plan_run", "write_report"},
    "run.tiny.train.log_every=7": NOTHING,
    "run.tiny.train.checkpoint_every=7": NOTHING,
    "run.tiny.cores=1": NOTHING,
    "run.tiny.sample.temperature=0.5": {"sample_model", "write_report"},
    "run.tiny.sample.prompts=[for]": {"sample_model", "write_report"},
    # the space keeps Snakemake from stripping the quote
    "run.tiny.sample.prompts='[{validation: 1, tokens: 8}]' ": {"sample_model", "write_report"},
    "run.tiny.evaluate.stride=16": {"evaluate_model", "write_report"},
    "run.tiny.tasks=[piqa]": {"download_task", "evaluate_task", "write_report"},
    "run.tiny.export.dtype=bfloat16": {"export_model", "write_report"},
    "tokenizer.tiny_bpe.vocab_size=600": TOKENIZED,
    "corpus.tiny.valid_fraction=0.1": ALL,
}

# file, what is replaced in it, by what -> what reruns
FILES = {
    "a comment in config.yaml": ("config.yaml", "^", "# a comment\n", NOTHING),
    "a comment in a rule file": ("workflow/rules/model.smk", r"(?m)^rule train_model:", "# why\n\\g<0>", NOTHING),
    "the sampler's code": ("scripts/makelm/generate.py", "$", "# edited\n", {"sample_model", "write_report"}),
    "the model's code": ("scripts/makelm/model.py", "$", "# edited\n", PLANNED),
    "the page of the report": ("scripts/makelm/report.html.j2", "$", "\n", {"write_report"}),
    "a stage's program": ("scripts/evaluate_model.py", "$", "# edited\n", {"evaluate_model", "write_report"}),
    "the progress bar's code": ("scripts/makelm/progress.py", "$", "# edited\n", NOTHING),
    "a package of the tokenizer": ("uv.lock", r'(name = "tiktoken"\nversion = ")[^"]+', r"\g<1>99.0", TOKENIZED),
    "a package of the pages": (
        "uv.lock",
        r'(name = "jinja2"\nversion = ")[^"]+',
        r"\g<1>99.0",
        {"sample_model", "write_report"},
    ),
    "a package that no chosen key needs": ("uv.lock", r'(name = "ftfy"\nversion = ")[^"]+', r"\g<1>99.0", NOTHING),
    "a package that only tasks need": ("uv.lock", r'(name = "lm-eval"\nversion = ")[^"]+', r"\g<1>99.0", NOTHING),
    "a developer's tool": ("uv.lock", r'(name = "ruff"\nversion = ")[^"]+', r"\g<1>99.0", NOTHING),
}


@pytest.mark.parametrize(("change", "expected"), KEYS.items(), ids=KEYS)
def test_a_changed_key_reruns_exactly_what_depends_on_it(built, change, expected):
    assert built.planned_rules("--config", f"set={change}") == expected


@pytest.mark.parametrize("change", FILES)
def test_a_changed_file_reruns_exactly_what_depends_on_it(built, change):
    name, pattern, replacement, expected = FILES[change]
    with built.edited(name, pattern, replacement):
        assert built.planned_rules() == expected


def test_a_new_file_time_without_new_bytes_reruns_nothing(built):
    for name in ("train_model.py", "makelm/model.py"):
        (built.folder / "scripts" / name).touch()
    assert built.planned_rules() == NOTHING


def test_a_new_run_reruns_its_own_stages_and_the_report(built):
    preset = "run:\n  second: {base: tiny, train: {seed: 2}}\nruns: [tiny, second]\n"
    (built.folder / "second.yaml").write_text(preset)
    jobs = built.planned(more=("second.yaml",))
    (built.folder / "second.yaml").unlink()
    assert set(jobs) == {f"{stage} run=second" for stage in PLANNED - {"write_report"}} | {"write_report"}


def test_a_corpus_mixed_in_is_downloaded_and_encoded_and_no_other_again(built):
    second = "corpus:\n  more: {base: tiny, max_documents: 30}\n"
    (built.folder / "mixed.yaml").write_text(f"{second}run: {{tiny: {{corpus: {{tiny: 0.7, more: 0.3}}}}}}\n")
    jobs = built.planned(more=("mixed.yaml",))
    (built.folder / "mixed.yaml").unlink()
    assert {job.split()[0] for job in jobs} == {"download_corpus", "encode_shard", *TRAINED}
    of_data = [job for job in jobs if job.split()[0] in ("download_corpus", "encode_shard")]
    assert len(of_data) == 3 and all("corpus=more" in job for job in of_data)


def test_another_corpus_to_be_scored_on_is_encoded_with_the_runs_tokenizer_and_trains_nothing(built):
    second = "corpus:\n  more: {base: tiny, max_documents: 30}\n"
    (built.folder / "sets.yaml").write_text(f"{second}run: {{tiny: {{evaluate: {{sets: [more]}}}}}}\n")
    jobs = built.planned(more=("sets.yaml",))
    (built.folder / "sets.yaml").unlink()
    assert {job.split()[0] for job in jobs} == {"download_corpus", "encode_shard", "evaluate_model", "write_report"}
    assert all("corpus=more" in job for job in jobs if job.split()[0] in ("download_corpus", "encode_shard"))


def test_braces_in_a_prompt_are_no_wildcards(built):
    # Snakemake takes quotes off the end of a value: hence the space
    assert built.planned("verify", "--config", "set=run.tiny.sample.prompts='[\"{king}\"]' ") == ["verify"]


def test_keys_longer_than_a_command_may_be_are_handed_over_in_a_file(checkout):
    """Linux takes 128 KiB; so much are the addresses and sums of a thousand files."""
    texts = [f"{number} is a number, and here is what it is said to be good for.\n" for number in range(1000)]
    addresses = []
    for number, text in enumerate(texts):
        path = checkout.folder / f"texts/c4-train.{number:05d}-of-01000-and-a-name-as-long-as-those-on-the-hub.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        addresses.append(path.as_uri())
    sums = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    large = {"source": "url", "url": addresses, "sha256": sums, "text_key": "text", "split": "hash"}
    large |= {"max_documents": None, "clean": None, "shards": 1, "valid_fraction": 0.1}
    over = checkout.folder / "large.json"
    over.write_text(json.dumps({"corpus": {"large": large}, "run": {"tiny": {"corpus": "large"}}}))
    assert over.stat().st_size > 128 << 10
    target, words = "results/download_corpus/large/manifest.json", ("--configfile", TINY, "large.json")
    make = ["scripts/run_workflow.py", "--cores", "2"]
    done = checkout.python(*make, target, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    keys = json.loads((checkout.folder / target).read_text())["content"]["config"]
    assert (keys["corpus"]["url"], keys["corpus"]["sha256"]) == (addresses, sums)
    shutil.rmtree(checkout.folder / ".snakemake/keys")
    assert checkout.planned(target, more=("large.json",)) == []
    large["url"], large["sha256"] = addresses[:-1], sums[:-1]
    over.write_text(json.dumps({"corpus": {"large": large}, "run": {"tiny": {"corpus": "large"}}}))
    assert checkout.planned(target, more=("large.json",)) == ["download_corpus corpus=large"]
    assert "nothing is unused" in checkout.python(*make, "gc", *words).stdout
    changed = "stale: the configuration changed (corpus.sha256, corpus.url)"
    assert changed in checkout.python(*make, "verify", *words).stdout


# ---- what make says


def test_make_says_what_it_made_and_ends_with_scores_a_sample_and_the_report(built):
    said = built.said.splitlines()
    for stage in ALL:
        assert any(line.startswith(f"[{stage}") and "] wrote results/" in line for line in said), stage
    end = said[next(number for number, line in enumerate(said) if line.startswith("done in ")) :]
    assert re.search(r"tiny  \d\.\d{3} bits per byte, loss \d\.\d{3} nats per token", end[1])
    assert "  a sample of tiny:" in end and any(line.startswith("    | ") for line in end)
    assert end[-1] == "  report  results/write_report/report.html"
    assert not any("rule " in line or "jobid" in line for line in said), "Snakemake's own words are in its log"


def test_a_sample_says_nothing_to_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("results/sample_model/x")
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text(json.dumps({"prompt": "é\tb\n", "text": "\0\x1b[2J\x9b2J\r\nc"}))
    run_workflow.print_sample("x")
    assert capsys.readouterr().out == "  a sample of x:\n    | é\tb\n    | ␀␛[2J\ufffd2J␍\n    | c\n"


def test_a_second_make_has_nothing_to_do(built):
    done = built.make()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "nothing to do: what was asked for is there and up to date"
    assert "bits per byte" in lines[1] and lines[-1] == "  report  results/write_report/report.html"


def test_what_was_removed_is_made_again(built):
    files = [built.results / name for name in ("sample_model/tiny/samples.html", "export_model/tiny/config.json")]
    report = built.results / "write_report/manifest.json"
    before = [path.read_bytes() for path in files]
    for path in (*files, report):
        path.unlink()
    done = built.make()
    assert (done.returncode, done.stderr) == (0, "") and report.exists()
    said = [line for line in done.stdout.splitlines() if "is missing; made again" in line]
    assert len(said) == 2 and all(str(path.relative_to(built.folder)) in " ".join(said) for path in files)
    assert [path.read_bytes() for path in files] == before
    assert built.make().stdout.startswith("nothing to do")


def test_what_no_configured_run_has_is_left_as_it_is(built):
    other = built.results / "sample_model/other"
    other.mkdir()
    (other / "manifest.json").write_text("{")
    assert built.make().stdout.startswith("nothing to do")
    assert (other / "manifest.json").read_text() == "{"
    (other / "manifest.json").unlink()
    other.rmdir()


def test_to_look_removes_nothing(built):
    page, place = (built.results / "sample_model/tiny" / name for name in ("samples.html", "manifest.json"))
    content = page.read_bytes()
    page.unlink()
    for looking, said in (("verify", "samples.html: missing"), ("-n", "samples.html is missing; made again")):
        assert said in built.make(looking).stdout
        assert place.exists()
    page.write_bytes(content)


def make_line(folder: Path, target: str, run: str) -> tuple[dict[str, str], list[str]]:
    """Returns what `make TARGET RUN=...` runs first: what it sets in the environment, and Snakemake's arguments."""
    words = ["make", "-n", "-o", ".venv/.ready", target, f"RUN={run}", f"ARGS=--configfile {TINY}"]
    # not as a part of the make that runs the tests, which would say what folder it enters
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(words, cwd=folder, env=alone, text=True, capture_output=True, check=True)
    line = done.stdout.splitlines()[0]
    variable, *command = shlex.split(line)
    return dict([variable.split("=")]), command[command.index("all") + 1 :]


def test_make_tokenizer_asks_for_the_tokenizer_of_its_run_and_for_nothing_else(checkout):
    variables, words = make_line(checkout.folder, "tokenizer", "tiny")
    code, text = planner.snakemake(["-n", *words], checkout.folder, ENVIRONMENT | variables)
    assert code == 0 and set(re.findall(r"(?m)^rule (\w+):", text)) == {
        "download_corpus",
        "train_tokenizer",
        "tokenizer",
    }


@pytest.mark.parametrize("target", ["tokenizer", "plan", "train", "sample", "serve", "evaluate", "export"])
def test_make_says_what_run_was_meant(checkout, target):
    variables, words = make_line(checkout.folder, target, "tinny")
    code, text = planner.snakemake(["-n", *words], checkout.folder, ENVIRONMENT | variables)
    assert code == 2 and "RUN: no run is called 'tinny'; did you mean 'tiny'?" in text


def test_a_terminal_or_pipe_that_is_gone_changes_nothing_of_what_make_does():
    read, write = os.pipe()
    os.close(read)
    code = (
        "import run_workflow as make; make.say('stopping'); make.say('done'); raise SystemExit(make.complain('no', 75))"
    )
    words = [sys.executable, "-c", code]
    environment = ENVIRONMENT | {"PYTHONPATH": str(Path(run_workflow.__file__).parent)}
    done = subprocess.run(words, env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (75, "no\n")


def test_one_stage_alone_says_nothing_of_a_report_that_other_runs_are_in(built):
    done = built.make("results/plan_run/tiny/manifest.json")
    assert (done.stdout, done.stderr) == ("nothing to do: what was asked for is there and up to date\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--config", "set=run.tiny.train.stepz=5"), "run.tiny.train: unknown key 'stepz'; did you mean 'steps'?"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
        (("--cores", "0"), "--cores must be 1 or more, got 0; with none no job would ever start"),
        (
            ("results/train_model/none/manifest.json",),
            "nothing makes results/train_model/none/manifest.json; is its name",
        ),
    ],
)
def test_a_wrong_argument_or_key_is_one_line(built, arguments, line):
    done = built.make(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1


def test_a_home_that_cannot_be_written_to_is_none_of_its_business(checkout, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").touch()  # in the way: root may write anywhere else
    words = [sys.executable, "scripts/run_workflow.py", "--cores", "2", "-n", "--configfile", TINY]
    environment = ENVIRONMENT | {"HOME": str(home), "XDG_CACHE_HOME": ""}
    done = subprocess.run(words, cwd=checkout.folder, env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout.folder / ".snakemake/cache/snakemake").is_dir()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.symlink_to("/none/results"), "results is a link to /none/results, which is not there; make"),
        (lambda path: path.touch(), "results: File exists; make it a folder that can be written to\n"),
    ],
)
def test_results_that_cannot_be_written_to_are_one_line(checkout, make, line):
    make(checkout.results)
    done = checkout.make()
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(line)


@pytest.mark.parametrize(
    ("make", "place", "kind"),
    [
        (Path.touch, "results/download_corpus", "folder"),
        (Path.touch, "results/download_corpus/tiny", "folder"),
        (Path.mkdir, "results/download_corpus/tiny/manifest.json", "file"),
    ],
)
def test_what_is_in_the_way_is_named(checkout, make, place, kind):
    path = checkout.folder / place
    path.parent.mkdir(parents=True)
    make(path)
    done = checkout.make("results/download_corpus/tiny/manifest.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{place} is in the way: a {kind} of that name is expected; remove it\n"


def test_what_is_to_be_built_is_not_taken_for_a_configuration(checkout):
    path = checkout.results / "plan_run/tiny/manifest.json"
    path.parent.mkdir(parents=True)
    for content in ("{}", None):
        path.write_text(content) if content else path.unlink()
        done = checkout.python("scripts/run_workflow.py", "--configfile", TINY, "results/plan_run/tiny/manifest.json")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "what is to be built stands before --configfile" in done.stderr


def test_a_configuration_that_is_not_there_is_one_line(built):
    done = built.python("scripts/run_workflow.py", "--configfile", "nope.yaml")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("--configfile: no such file: nope.yaml;") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("--configfile", "good.yaml", "bad.yaml"), ("--configfile=bad.yaml", "-n")])
def test_a_configuration_that_is_no_yaml_is_one_line_with_its_place(built, words):
    (built.folder / "good.yaml").write_text("runs: [stdlib]\n")
    (built.folder / "bad.yaml").write_text("cluster: null\nruns: [a\n")
    done = built.python("scripts/run_workflow.py", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bad.yaml:3: expected ',' or ']'") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("slip", "line"),
    [
        ("import nothing_of_that_name", "imports nothing_of_that_name, which uv.lock does not have; add it to"),
        ("def broken(:", "scripts/makelm/model.py, line 1: invalid syntax"),
    ],
)
def test_code_that_cannot_run_is_one_line(built, slip, line):
    with built.edited("scripts/makelm/model.py", "^", f"{slip}\n"):
        done = built.make()
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1


def test_a_stage_that_fails_says_why_and_where_its_log_is(scratch):
    program, first_line = "scripts/sample_model.py", r"(?m)^def sample_model\(.*\n.*\n"
    failing = "from makelm import errors; raise errors.UserError('choose other prompts')"
    with scratch.edited(program, first_line, f"\\g<0>    {failing}\n"):
        done = scratch.make()
    assert done.returncode == 2
    assert done.stderr == "sample_model tiny: choose other prompts\n  log: logs/sample_model/tiny.log\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("SIGKILL: 9", "train_model was killed by SIGKILL; was there enough memory?"),
        (
            "SIGBUS: 7",
            "train_model was killed by SIGBUS; was a token file written to while it was read? Make a new file",
        ),
        ("SIGSEGV: 11", "train_model was killed by SIGSEGV\n  log: logs/train_model/tiny.log\n"),
    ],
)
def test_a_stage_that_was_killed_says_by_what(tmp_path, monkeypatch, capsys, name, line):
    monkeypatch.setattr(run_workflow, "LOG", tmp_path / "log.txt")
    log = "logs/train_model/tiny.log (check log file(s) for error details)"
    error = f"Error in rule train_model:\n    message: None\n    log: {log}\n"
    words = f"{error}CalledProcessError: Command 'python' died with <Signals."
    run_workflow.LOG.write_text(f"{words}{name}>.\n")
    assert run_workflow.closing_words(1, 2.0, {}, with_summary=False) == 1
    assert capsys.readouterr().err.startswith(line)
    for signal in ("SIGINT: 2", "SIGTERM: 15"):
        run_workflow.LOG.write_text(f"{words}{signal}>.\n")
        assert run_workflow.closing_words(1, 2.0, {}, with_summary=False) == 75
        assert capsys.readouterr().err == "interrupted; run make again to go on\n"


def test_a_stage_whose_line_was_lost_to_a_full_disk_shows_the_end_of_snakemakes_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_workflow, "LOG", tmp_path / "log.txt")
    (tmp_path / "stage.error.json").touch()
    run_workflow.LOG.write_text(f"Error in rule train_model:\n    log: {tmp_path}/stage.log (check log file)\n")
    assert run_workflow.closing_words(1, 2.0, {}, with_summary=False) == 1
    assert capsys.readouterr().err.startswith("Error in rule train_model:")


def test_a_stage_that_cannot_start_shows_why_and_not_how_it_ended_before(scratch):
    before = scratch.folder / "logs/sample_model/tiny.error.json"
    before.write_text('{"stage": "sample_model tiny", "line": "of yesterday", "exit_code": 2, "inputs": null}')
    with scratch.edited("scripts/sample_model.py", r"(?m)^import ", "raise SystemError('at once')\n\\g<0>"):
        done = scratch.make()
    before.unlink()
    assert done.returncode == 1
    assert done.stderr.startswith("sample_model did not start:\nTraceback")
    assert done.stderr.endswith("SystemError: at once\n")


def test_snakemakes_own_report_holds_what_is_marked_for_it(built):
    made = built.python("-m", "snakemake", "--report", "own.zip", "--configfile", TINY)
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(built.folder / "own.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
    (built.folder / "own.zip").unlink()
    assert {"report.html", "runs.csv", "samples.html", "scores.json"} <= names


# ---- what make survives
