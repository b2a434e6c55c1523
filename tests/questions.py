"""Small tasks of lm-eval for tests: a multiple choice, a last word, whole texts and what is written on; and a model."""

import json
from pathlib import Path

import jax
import yaml
from conftest import random_parameters
from lm_eval.api.instance import Instance

from makelm import config, scoring, sharding, vocabulary, weights
from makelm.config_tokenizer import BpeTokenizer
from makelm.tokenizer import Tokenizer

TEXT = "def f(x):\n    return x * 2  # two\n\n\nclass Queue:\n    pass\n" * 20
ROWS = [
    {"question": "def f(x", "choices": ["):", " pass", " Queue"], "answer": 0},
    {"question": "class Queue:\n   ", "choices": ["pass", "x * 2  # two", "return"], "answer": 0},
    {"question": "", "choices": ["def f(x):\n", "class"], "answer": 1},  # without context
    {"question": TEXT[:300], "choices": [" return x", " pass"], "answer": 1},  # longer than a model sees
    {"question": "class ", "choices": [" Queue:\n    pass\n\n\nclass Queue:", " f"], "answer": 0},
]
MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}{{choices[0]}}",
    "metric_list": [{"metric": "bits_per_byte"}],
}
WRITING = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}class",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": [":", "\n\n"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
TASKS = {"choice": MULTIPLE_CHOICE, "last_word": LAST_WORD, "rolling": ROLLING, "writing": WRITING}


def write_task(folder: Path, name: str, rows: list[dict] | None = None, **changes) -> Path:
    """Writes a task and its questions, and returns its YAML."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS))
    own = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(own | {"test_split": "test", "metadata": {"version": 2}} | TASKS[name] | changes))
    return path


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    """Returns what lm-eval asks a model."""
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


ONE = config.Mesh(data=1, fsdp=1, tensor=1)


def made(begin_of_text=False, end_of_text=True):
    """Returns a tokenizer whose tokens may reach over a blank."""
    keys = {"kind": "bpe", "corpus": "any", "vocab_size": 280, "sample_bytes": None, "pattern": r"\s*\S+|\s+"}
    return vocabulary.train(
        BpeTokenizer(**keys, begin_of_text=begin_of_text, end_of_text=end_of_text), [TEXT + "xyz" * 9]
    )


def weights_of(shape: config.Model, encoding: Tokenizer) -> weights.Weights:
    """Returns a model of random weights for a tokenizer."""
    size = encoding.vocab_size
    return weights.Weights(shape, size, encoding.end_of_text, encoding.digest, random_parameters(shape, size))


def scorer_of(
    trained: weights.Weights, mesh: config.Mesh = ONE, rows: int = scoring.ROWS, devices: int = 1
) -> scoring.Scorer:
    """Returns a model on some devices."""
    return scoring.Scorer(trained, sharding.make_mesh(mesh, jax.devices()[:devices]), rows)
