"""The presets: each stands by itself, they agree with each other, and their learning rates are those they follow."""

import runpy
from pathlib import Path

import pytest
import yaml

from makelm import artifacts, config, configfile, optimizer, used

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
CORPORA = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "workflow/presets/corpora").glob("*.yaml")}
PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "workflow/presets").glob("*.yaml"))}


def settings(name: str) -> config.Config:
    """Returns the configuration that a preset makes of the default one."""
    return configfile.load(configfile.merge(DEFAULT, PRESETS[name]))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_by_itself(name):
    found = settings(name)
    assert found.runs == [name] == list(PRESETS[name]["run"])[:1]  # others are built by name only
    run = found.run[name]
    assert run.evaluate.window <= run.model.context_length
    if run.model.positions.kind == "learned":
        assert run.sample.max_new_tokens < run.model.context_length
    assert not run.train.batch_size % run.compute.accumulate


@pytest.mark.parametrize("section", ["corpus", "tokenizer", "weights", "run"])
def test_a_name_means_the_same_in_all_presets(section):
    met = dict(DEFAULT[section])
    for name, preset in [*PRESETS.items(), *CORPORA.items()]:
        for entry, content in preset.get(section, {}).items():
            assert met.setdefault(entry, content) == content, f"{entry} in {name}"


@pytest.mark.parametrize("name", CORPORA)
def test_the_preset_of_a_corpus_makes_it_known_and_builds_nothing_else(name):
    found = configfile.load(configfile.merge(DEFAULT, CORPORA[name]))
    assert list(CORPORA[name]["corpus"]) == [name] and found.runs == DEFAULT["runs"]
    assert found.corpus[name].shards >= 1


def test_make_presets_runs_every_preset_and_knows_its_size():
    reduced = yaml.safe_load((ROOT / "tests/presets/reduced.yaml").read_text())
    presets = {name for name in PRESETS if name != "tiny"}
    runs = {run for name in presets for run in PRESETS[name]["run"]}
    assert set(runpy.run_path(str(ROOT / "tests/presets/run.py"))["PARAMETERS"]) == runs
    assert {name.removesuffix("_reduced") for name in reduced["runs"]} == presets
    assert {run["base"] for run in reduced["run"].values()} == presets
    assert list(reduced["run"]) == reduced["runs"]


def test_an_encoding_that_exists_is_made_of_no_corpus():
    found = settings("nanogpt_124m")
    made = {artifact.stage: artifact for artifact in artifacts.artifacts(found, (ROOT / "uv.lock").read_text())}
    assert made["train_tokenizer"].inputs == {} and used.named_tokenizers(found) == ["gpt2"]
    assert used.corpora(found) == ["openwebtext"]


# ---- learning rates by step: where a system publishes or prints them, else what its rule gives by hand

PICODO_IN_1000_STEPS = "run.picodo.train.steps=1000 run.picodo.train.schedule.warmup_steps=50"
RATES = {
    "nanodo": {0: 1.6e-4, 500: 8.8e-4, 1000: 1.6e-3, 50_500: 8.8e-4, 100_000: 1.6e-4},
    "picodo": {0: 0, 1: 4e-5, 25: 1e-3, 50: 2e-3, 525: 1e-3, 1000: 0},
    "picodo_2025": {0: 1e-4, 500: 2.05e-3, 1000: 4e-3, 25_816: 2e-3, 50_632: 0},
    "nanojaxgpt": {0: 0, 1000: 3e-4, 2000: 6e-4, 301_000: 3.3e-4, 600_000: 6e-5},
    "gptj_6b": {0: 0, 1: 4e-8, 1500: 6e-5, 3000: 1.2e-4, 78_000: 1.04184e-4, 153_000: 6.6e-5}
    | {303_000: 1.2e-5, 349_999: 1.2e-5},
    "nanogpt_124m": {0: 2.9985e-7, 1999: 5.9970e-4, 2000: 6e-4, 301_000: 3.3e-4, 600_000: 6e-5},
    "nanogpt_shakespeare": {0: 1e-3 / 101, 99: 0.1 / 101, 100: 1e-3, 2550: 5.5e-4, 5000: 1e-4},
    "gpt2": {0: 2.9985e-7, 2000: 6e-4, 301_000: 3.3e-4, 600_000: 6e-5},
    "gpt2_medium": {2000: 3e-4, 600_000: 3e-5},
    "gpt2_large": {2000: 2.5e-4, 600_000: 2.5e-5},
    "gpt2_xl": {2000: 2e-4, 600_000: 2e-5},
    "finetune_gpt2_shakespeare": {0: 3e-5, 19: 3e-5},
    "finetune_gptj": {0: 0, 1: 5e-5 / 7, 7: 5e-5, 72: 1e-5},
    "llama_small": {0: 1e-3 / 401, 400: 1e-3, 8000: 1e-4},
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_those_of_the_system(name):
    raw = configfile.merge(DEFAULT, PRESETS[name])
    train = configfile.load(raw | ({"set": PICODO_IN_1000_STEPS} if name == "picodo" else {})).run[name].train
    rates = train.optimizer.learning_rates
    assert rates.matrices == rates.embedding == rates.head == rates.vectors
    factor = optimizer.schedule(train)
    for step, expected in RATES[name].items():
        assert rates.matrices * float(factor(step)) == pytest.approx(expected, rel=1e-4, abs=1e-12), step
