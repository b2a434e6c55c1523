"""Runs that start from other weights: their keys, what they need, and what a change of it reruns."""

import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkout import TINY, Checkout, copy_checkout
from safetensors.numpy import save_file

from makelm import artifacts, configfile, stages
from makelm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
LOCK = (ROOT / "uv.lock").read_text()
FRESH = {"weights": None, "run": None, "optimizer": "fresh", "schedule": "fresh"}
MINE = {"source": "local", "path": "model"}
HERS = {"source": "huggingface", "repository": "openai-community/gpt2", "revision": None}


def raw(more: dict[str, dict], **sections: object) -> dict:
    """Returns the default configuration with more runs, all based on its own, and other sections."""
    whole = deepcopy(DEFAULT) | {"weights": {"mine": MINE, "hers": HERS}}
    whole["run"] |= {name: {"base": "stdlib", **run} for name, run in more.items()}
    return configfile.merge(whole, sections)


def start(**change: str) -> dict:
    return {"start": FRESH | change}


# ---- the configuration


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (
            {"a": start(weights="mien")},
            "run.a.start.weights: no entry of weights is called 'mien'; did you mean 'mine'?",
        ),
        ({"a": start(run="stdlob")}, "run.a.start.run: no run is called 'stdlob'; did you mean 'stdlib'?"),
        ({"a": start(run="a")}, "run.a.start.run goes in a circle: a -> a"),
        ({"a": start(run="b"), "b": start(run="a")}, "run.a.start.run goes in a circle: a -> b -> a"),
        ({"a": start(run="b"), "b": start(run="c"), "c": start(run="b")}, "goes in a circle: a -> b -> c -> b"),
        ({"a": start(run="stdlib") | {"tokenizer": "bytes"}}, "stdlib has the tokenizer stdlib_bpe, a has bytes; take"),
        ({"a": start()}, "run.a.start: start needs one of weights: and run:, the other null"),
        ({"a": start(weights="mine", run="stdlib")}, "run.a.start: start needs one of weights: and run:"),
        ({"a": start(weights="mine", optimizer="kept")}, "run.a.start: optimizer and schedule can be kept from a run"),
        ({"a": {"start": {"weights": "mine"}}}, "run.a.start.run is missing"),
        ({"a": {"grid": {"cores.x": [1]}}}, "run.a.grid: cores.x: cores is no section"),
    ],
)
def test_a_start_that_leads_nowhere_is_refused_in_one_line(runs, expected):
    bytes_ = {"kind": "byte", "begin_of_text": False, "end_of_text": True}
    with pytest.raises(UserError) as caught:
        configfile.load(raw(runs, tokenizer={"bytes": bytes_}))
    assert str(caught.value).startswith("config: ") and expected in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"source": "loca"}, "weights.x.source must be one of local, huggingface, got 'loca'; did you mean 'local'?"),
        ({"source": "local"}, "weights.x.path is missing"),
        (MINE | {"revision": "main"}, "weights.x: unknown key 'revision'; known here: source, path"),
        (HERS | {"repository": "a/b/c"}, "weights.x.repository: string should match pattern"),
        ({"base": "hear"}, "weights.x.base: no weights is called 'hear'"),
        ([], "weights.x must be a map, got []"),
    ],
)
def test_an_entry_of_weights_is_checked_like_a_corpus(entry, expected):
    with pytest.raises(UserError) as caught:
        configfile.load(raw({}, weights={"x": entry}))
    assert expected in str(caught.value)


def test_an_entry_of_weights_can_have_a_base():
    settings = configfile.load(raw({}, weights={"x": {"base": "hers", "revision": "v1"}}))
    assert settings.weights["x"].model_dump() == HERS | {"revision": "v1"}


def test_a_start_can_be_set_from_the_command_line_and_by_a_grid():
    words = [f"run.stdlib.start.{key}={value or 'null'}" for key, value in (FRESH | {"weights": "mine"}).items()]
    settings = configfile.load(raw({}, set=" ".join(words)))
    assert settings.run["stdlib"].start.model_dump() == FRESH | {"weights": "mine"}
    grid = {f"start.{key}": [value] for key, value in FRESH.items()} | {"start.weights": ["mine", "hers"]}
    settings = configfile.load(raw({"a": {"grid": grid}}))
    names = ["mine", "hers"]
    assert [run.start.weights for name, run in settings.run.items() if name != "stdlib"] == names


# ---- what it needs


def test_training_depends_on_how_it_starts_and_not_on_how_it_computes():
    runs = {"a": start(weights="mine"), "b": {"compute": {"remat": True}}}
    settings = configfile.load(raw(runs))
    plain, begun, computed = (stages.keys("train_model", settings, name, LOCK) for name in ("stdlib", "a", "b"))
    assert (plain[0]["start"], begun[0]["start"]) == (None, FRESH | {"weights": "mine"})
    assert plain[0] == computed[0] and computed[1]["compute"]["remat"]
    plans = [stages.keys("plan_run", settings, name, LOCK)[0] for name in ("stdlib", "a", "b")]
    assert plans[0] == plans[1] != plans[2]


def test_the_keys_that_a_stage_gets_are_those_it_says_it_was_made_with():
    settings = configfile.load(raw({"a": start(weights="mine")}))
    for stage, name in (
        ("plan_run", "a"),
        ("train_model", "a"),
        ("train_model", "stdlib"),
        ("download_weights", "mine"),
    ):
        result, execution = stages.keys(stage, settings, name, LOCK)
        part = configfile.parse(stages.STAGES[stage], configfile.merge(result, execution), stage)
        assert part.result_keys() == result


def test_artifacts_come_after_what_they_are_made_of():
    runs = {"a": start(run="b"), "b": start(run="c", optimizer="kept"), "c": start(weights="mine"), "d": {}}
    settings = configfile.load(raw(runs, runs=["stdlib", "a"]))
    found = artifacts.artifacts(settings, LOCK)
    places = [artifact.manifest for artifact in found]
    assert len(set(places)) == len(places)
    for number, artifact in enumerate(found):
        assert set(artifact.inputs.values()) <= set(places[:number])
    trained = [artifact for artifact in found if artifact.stage == "train_model"]
    begun = {artifact.manifest.split("/")[1]: list(artifact.inputs.values())[-1] for artifact in trained}
    assert list(begun) == ["stdlib", "c", "b", "a"]
    assert [begun[name] for name in "cba"] == [
        "download_weights/mine/manifest.json",
        "train_model/c/manifest.json",
        "train_model/b/manifest.json",
    ]
    assert not any("/b/" in place or "/c/" in place for place in places if not place.startswith("train_model/"))
    assert not any("hers" in place for place in places), "nothing starts from them"


# ---- the workflow

CHAIN = """
runs: [tuned]
weights:
  mine: {source: local, path: model}
run:
  first: {base: tiny, start: {weights: mine, run: null, optimizer: fresh, schedule: fresh}}
  tuned: {base: tiny, start: {weights: null, run: first, optimizer: kept, schedule: fresh}}
"""
TARGET = "results/train_model/tuned/manifest.json"


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Checkout:
    """A checkout with a model of someone else; what the training of `tuned` reads is there, but every file is empty."""
    copy = copy_checkout(tmp_path_factory.mktemp("chain"))
    (copy.folder / "model").mkdir()
    (copy.folder / "model/config.json").write_text("{}")
    save_file({"a": np.zeros(100_000, np.float32)}, copy.folder / "model/model.safetensors")
    (copy.folder / "chain.yaml").write_text(CHAIN)
    files = ("--configfile", TINY, "chain.yaml")
    listed = copy.python("-m", "snakemake", TARGET, "--summary", *files)
    assert listed.returncode == 0, listed.stderr
    for line in listed.stdout.splitlines()[1:]:
        path = copy.folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    touched = copy.python("-m", "snakemake", TARGET, "--touch", "--cores", "2", *files)
    assert touched.returncode == 0, touched.stderr
    return copy


def planned(chain: Checkout, target: str) -> set[str]:
    return set(chain.planned(target, more=("chain.yaml",)))


def test_other_weights_in_their_place_train_all_again_that_comes_of_them(chain):
    time.sleep(0.01)  # of a file of this size Snakemake compares the time
    save_file({"a": np.ones(100_000, np.float32)}, chain.folder / "model/model.safetensors")
    downloaded, trained = "download_weights weights=mine", {"train_model run=first", "train_model run=tuned"}
    assert planned(chain, TARGET) == {downloaded, *trained}
    assert planned(chain, "download") == {downloaded, "download"}
