"""verify: whatever is wrong in results/ is named in one line, and nothing is rebuilt."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, Checkout

from makelm import configfile, manifest

WEIGHTS = "train_model/tiny/weights/model.safetensors"


@pytest.fixture(scope="module")
def tiny(built, tmp_path_factory) -> Callable[..., list[str]]:
    """Verifies the tiny preset in a checkout; returns what it says, the exit code first."""
    files = [built.folder / name for name in ("config.yaml", "workflow/presets/tiny.yaml")]
    raw = {}
    for file in files:
        raw = configfile.merge(raw, yaml.safe_load(file.read_text()))
    path = tmp_path_factory.mktemp("config") / "whole.json"

    def verify(override: str = "", results: Path = built.results) -> list[str]:
        path.write_text(json.dumps({**raw, "set": override}))
        done = built.python("scripts/verify.py", "--config", str(path), "--results", str(results))
        assert "Traceback" not in done.stderr
        lines = [line.removeprefix("[verify] ") for line in done.stdout.splitlines() + done.stderr.splitlines()]
        return [str(done.returncode), *lines]

    return verify


@contextlib.contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Puts a file back as it was, file time and all."""
    copy = path.with_name(f".kept-{path.name}")
    shutil.copy2(path, copy)
    try:
        yield path
    finally:
        copy.rename(path)


def found(lines: list[str]) -> list[str]:
    """Returns the lines about what is wrong, after checking that verify failed and counted them."""
    code, *wrong, last = lines
    assert code == "2"
    assert last.startswith(f"{len(wrong)} thing")
    return wrong


def test_a_good_tree_is_said_to_be_good(tiny):
    code, line = tiny()
    assert code == "0"
    assert "artifacts" in line and line.endswith("all as they should be")


def test_it_writes_nothing_below_results(tiny, built):
    def snapshot() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in built.results.rglob("*")}

    before = snapshot()
    tiny()
    assert snapshot() == before


def test_a_truncated_shard(tiny, built):
    shard = next((built.results / "encode_shard").rglob("train-*.bin"))
    with kept(shard):
        with shard.open("r+b") as file:
            file.truncate(shard.stat().st_size - 2)
        (line,) = found(tiny())
    assert line.startswith(f"{shard}: truncated: ")


def test_one_flipped_byte_in_the_weights_with_the_file_time_kept(tiny, built):
    weights = built.results / WEIGHTS
    with kept(weights):
        status = weights.stat()
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        (line,) = found(tiny())
    assert line.startswith(f"{weights}: altered: ")


def test_a_deleted_file(tiny, built):
    scores = built.results / "evaluate_model/tiny/scores.json"
    with kept(scores):
        scores.unlink()
        (line,) = found(tiny())
    assert line.startswith(f"{scores}: missing")


def test_a_deleted_manifest(tiny, built):
    with kept(built.results / "plan_run/tiny/manifest.json") as path:
        path.unlink()
        (line,) = found(tiny())
    assert line.startswith(f"{path}: missing")


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version": 1}', "replaced"])
def test_a_damaged_manifest(tiny, built, damage):
    with kept(built.results / "plan_run/tiny/manifest.json") as path:
        path.write_text(path.read_text().replace("plan_run", "plan_fun") if damage == "replaced" else damage)
        (line,) = found(tiny())
    assert line == f"{path}: damaged; run make"


def test_an_artifact_whose_input_changed(tiny, built):
    corpus = next((built.results / "download_corpus").glob("*/manifest.json"))
    with kept(corpus):
        old = json.loads(corpus.read_text())
        corpus.write_text(json.dumps(manifest.build({**old["content"], "facts": {}}, old["made"])))
        lines = found(tiny())
    names = {line.split(": ")[0].removeprefix(f"{built.results}/").split("/")[0] for line in lines}
    assert names == {"train_tokenizer", "encode_shard", "evaluate_model"}, "all that reads it, and nothing else"
    assert all("its input download_corpus/" in line for line in lines)


def test_keys_that_changed_are_named(tiny):
    (line,) = found(tiny("run.tiny.sample.temperature=0.5 run.tiny.sample.seed=7"))
    assert "sample_model/tiny/manifest.json: stale: the configuration changed (sample.seed, sample.temperature)" in line


def test_execution_keys_make_nothing_stale(tiny):
    assert tiny("run.tiny.train.log_every=7 run.tiny.cores=1")[0] == "0"


def test_code_that_changed_is_named(tiny, built):
    with built.edited("scripts/makelm/generate.py", "$", "# edited\n"):
        (line,) = found(tiny())
    assert "sample_model/tiny/manifest.json: stale: the code changed" in line


def test_packages_that_changed_are_named(tiny, built):
    with built.edited("uv.lock", r'(name = "orbax-checkpoint"\nversion = ")[^"]+', r"\g<1>99.0"):
        (line,) = found(tiny())
    assert "train_model/tiny/manifest.json: stale: made with other packages (orbax-checkpoint" in line
    assert "locked 99.0" in line


def test_a_run_that_was_not_made_is_missing(tiny):
    lines = found(tiny("run.other.base=tiny runs=[tiny,other]"))
    assert sum("other/manifest.json: missing" in line for line in lines) == 5


def test_no_results_at_all(tiny, tmp_path):
    lines = found(tiny(results=tmp_path / "nowhere"))
    for line in lines:
        path, _, how = line.partition(": missing; run ")
        data = any(f"/{stage}/" in path for stage in ("download_corpus", "train_tokenizer", "encode_shard"))
        assert how == (f"make ARGS={path}, followed by the same ARGS if there were any" if data else "make"), line


@pytest.mark.parametrize(
    ("program", "line"), [("verify", "missing; run make"), ("collect_garbage", "nothing is unused")]
)
def test_it_runs_from_any_folder(tmp_path, program, line):
    words = [sys.executable, str(ROOT / f"scripts/{program}.py"), "--config", str(ROOT / "config.yaml")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert line in done.stdout, done.stderr


def test_make_verify_says_the_lines_and_nothing_of_snakemake(built: Checkout):
    done = built.make("verify")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1 and "all as they should be" in done.stdout
    with kept(built.results / WEIGHTS) as weights:
        weights.write_bytes(b"")
        done = built.make("verify")
    assert done.returncode == 2
    assert f"results/{WEIGHTS}: truncated" in done.stdout and done.stdout.count("\n") == 1
    assert done.stderr == "verify: 1 thing is wrong in results\n  log: logs/verify.log\n"
