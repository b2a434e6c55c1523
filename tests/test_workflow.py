"""The workflow: what a change reruns (the table in the README), and what `make` says and survives."""

import os
import re
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from checkout import TINY, Checkout

TRAINED = {"train_model", "sample_model", "evaluate_model", "export_model", "write_report"}
PLANNED = {"plan_run", *TRAINED}
TOKENIZED = {"train_tokenizer", "encode_shard", *PLANNED}
ALL = {"download_corpus", *TOKENIZED}
NOTHING: set[str] = set()

# change -> what reruns; the key is changed by an override, which is checked like the file
KEYS = {
    "run.tiny.train.optimizer.learning_rates.matrices=3e-2": TRAINED,
    "run.tiny.train.seed=1": TRAINED,
    "run.tiny.model.n_layers=1 run.tiny.model.n_kv_heads=2": PLANNED,  # the two change places
    "run.tiny.mesh.fsdp=1": {"plan_run", "write_report"},
    "run.tiny.train.log_every=7": NOTHING,
    "run.tiny.train.checkpoint_every=7": NOTHING,
    "run.tiny.cores=1": NOTHING,
    "run.tiny.sample.temperature=0.5": {"sample_model", "write_report"},
    "run.tiny.sample.prompts=[for]": {"sample_model", "write_report"},
    "run.tiny.evaluate.stride=16": {"evaluate_model", "write_report"},
    "run.tiny.export.dtype=bfloat16": {"export_model", "write_report"},
    "tokenizer.tiny_bpe.vocab_size=600": TOKENIZED,
    "corpus.stdlib.valid_fraction=0.06": ALL,
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
    preset = "run:\n  second: {base: tiny, train: {seed: 1}}\nruns: [tiny, second]\n"
    (built.folder / "second.yaml").write_text(preset)
    jobs = built.planned("--configfile", TINY[1], "second.yaml")
    (built.folder / "second.yaml").unlink()
    assert set(jobs) == {f"{stage} run=second" for stage in PLANNED - {"write_report"}} | {"write_report"}


def test_braces_in_a_prompt_are_no_wildcards(built):
    # Snakemake takes quotes off the end of a value: hence the space
    assert built.planned("verify", "--config", "set=run.tiny.sample.prompts='[\"{king}\"]' ") == ["verify"]


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


def test_a_second_make_has_nothing_to_do(built):
    done = built.make()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "nothing to do: everything is there and up to date"
    assert "bits per byte" in lines[1] and lines[-1] == "  report  results/write_report/report.html"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--config", "set=run.tiny.train.stepz=5"), "run.tiny.train: unknown key 'stepz'; did you mean 'steps'?"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_what_is_wrong_before_any_stage_starts_is_one_line(built, arguments, line):
    done = built.make(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1


def test_a_stage_that_fails_says_why_and_where_its_log_is(built):
    program, first_line = "scripts/sample_model.py", r"(?m)^def sample_model\(.*\n.*\n"
    with built.edited(program, first_line, "\\g<0>    raise UserError('choose other prompts')\n"):
        done = built.make()
    assert done.returncode == 2
    assert done.stderr == "sample_model tiny: choose other prompts\n  log: logs/sample_model/tiny.log\n"


def test_a_stage_that_cannot_start_shows_why(built):
    with built.edited("scripts/sample_model.py", r"(?m)^import ", "import nothing_of_that_name\n\\g<0>"):
        done = built.make("--config", "set=run.tiny.sample.seed=1")
    assert done.returncode != 0
    assert "nothing_of_that_name" in done.stderr
    assert built.make().returncode == 0


# ---- what make survives


def wait(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def working_in(checkout: Checkout, word: str) -> list[psutil.Process]:
    """Returns the processes with a word in their command line that work in a checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(checkout.folder) and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def training(built):
    """`make` on a long training, once a checkpoint of it is there; ends what is left of it."""
    longer = ("--config", "set=run.tiny.train.steps=1000000")
    folder = built.results / "train_model/tiny/checkpoints"
    known = set(folder.glob("*/*/_CHECKPOINT_METADATA"))
    process = built.start_make(*longer)
    wait(lambda: set(folder.glob("*/*/_CHECKPOINT_METADATA")) - known, 120)
    yield process
    for left in working_in(built, "scripts/"):
        left.kill()
    process.communicate()


def test_ctrl_c_saves_and_leaves_no_process(built, training):
    os.killpg(training.pid, signal.SIGINT)
    output, errors = training.communicate(timeout=60)
    assert training.returncode == 75, output + errors
    assert "stopping; stages save what they have" in output
    assert errors == "interrupted; run make again to go on\n"
    assert working_in(built, "scripts/") == []
    assert not any((built.folder / ".snakemake/locks").iterdir())
    assert built.make().returncode == 0


@pytest.mark.parametrize("victim", ["snakemake", "train_model.py", "scripts/"])
def test_after_a_kill_9_the_next_make_simply_works(built, training, victim):
    victims = working_in(built, victim)
    assert victims
    for process in victims:
        process.kill()
    done = built.make()
    assert done.returncode == 0, done.stdout + done.stderr
    assert working_in(built, "scripts/") == []


def test_when_make_is_killed_the_next_one_waits_for_its_snakemake(built, training):
    training.kill()
    second = built.start_make()
    try:
        assert "waiting for Snakemake (process " in second.stdout.readline()
        for process in working_in(built, "train_model.py"):
            process.terminate()  # it would go on for hours
        output, errors = second.communicate(timeout=300)
    finally:
        second.kill()
    assert second.returncode == 0, output + errors
