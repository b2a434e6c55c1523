"""Exports and imports against Hugging Face's transformers itself: `make test-parity` installs it and runs this.

MAKELM_PARITY_TABLE names a file that gets the differences as JSON.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import random_parameters, shape
from layouts import CASES
from test_tokenizer_files import KINDS, made_of, settings
from vocabularies import ADVERSARIAL, TEXTS

if "MAKELM_PARITY_PYTHON" not in os.environ:
    pytest.skip("needs torch and transformers: make test-parity", allow_module_level=True)

from sides import NEW, PROMPT, computed, differences, run_transformers, write_export, write_tokenizer, write_wanted

from makelm import generate, hugging_face, vocabulary, weights
from makelm.config_tokenizer import BpeTokenizer
from makelm.model import Skeleton

BOUND = 1e-4
CONTEXT, VOCAB = 16, 280
LONG = 256  # context of what is exported, for long texts
TEXT = "def f(x):\n    return x * 2  # two\n\n\nclass Größe:\n    pass\n" * 20
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 48}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 48,
}
# models that transformers makes; each has something of its own
IMPORTS = {
    "gpt2": GPT | {"model_type": "gpt2"},
    "gpt2_exact": GPT | {"model_type": "gpt2", "activation_function": "gelu", "n_inner": 24, "saved_as": "float16"},
    "gptj": GPT | {"model_type": "gptj", "rotary_dim": 4},
    "llama": LLAMA
    | {"model_type": "llama", "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "llama_relu": LLAMA | {"model_type": "llama", "hidden_act": "relu", "tie_word_embeddings": True},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 8, "saved_as": "bfloat16", "shard_size": "4KB"},
}


# no special token is in it, which transformers would make one
EVERY_SIGN = "\n".join(text for text in [*TEXTS, *ADVERSARIAL] if "<" not in text)


def random_tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (3, CONTEXT)).astype(np.int32)


@pytest.fixture(scope="module")
def encoding():
    settings = {"kind": "bpe", "corpus": "any", "vocab_size": VOCAB, "sample_bytes": None, "pattern": r"\s+|\S+"}
    settings |= {"begin_of_text": False, "end_of_text": True}
    return vocabulary.train(BpeTokenizer(**settings), [TEXT])


@pytest.fixture(scope="module")
def cases(encoding, tmp_path_factory) -> Path:
    """A folder of all cases, computed by transformers."""
    root = tmp_path_factory.mktemp("cases")
    for name, (_, changes) in CASES.items():
        model = shape(**changes, context_length=LONG)
        made = weights.Weights(model, VOCAB, VOCAB - 1, encoding.digest, random_parameters(model, VOCAB))
        write_export(made, random_tokens(VOCAB - 1), root / f"out_{name}")
        write_tokenizer(encoding, TEXT, root / f"out_{name}")
    for name, make in KINDS.items():
        made = made_of(make(), tmp_path_factory.mktemp(name))
        write_tokenizer(made, EVERY_SIGN, root / f"tokenizer_{name}")
    for name, wanted in IMPORTS.items():
        how = {"saved_as": "float32", "shard_size": "1GB"}
        write_wanted(how | wanted, random_tokens(48), root / f"in_{name}")
    run_transformers(root)
    return root


@pytest.fixture(scope="module")
def table():
    """Differences by case, written down at the end."""
    found: dict[str, dict[str, float]] = {}
    yield found
    if path := os.environ.get("MAKELM_PARITY_TABLE"):
        Path(path).write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("name", CASES)
def test_exports_compute_the_same(name, encoding, cases, table):
    architecture, changes = CASES[name]
    model = shape(**changes, context_length=LONG)
    parameters, tokens_BT = random_parameters(model, VOCAB), random_tokens(VOCAB - 1)
    theirs = dict(np.load(cases / f"out_{name}" / "out.npz"))
    assert theirs["architecture"] == architecture
    assert theirs["problems"].tolist() == []
    assert theirs["ids"].tolist() == encoding.encode(TEXT)
    table[f"{architecture} out, {name}"] = found = differences(computed(model, VOCAB, parameters, tokens_BT), theirs)
    assert max(found.values()) < BOUND, found

    prompts = [tokens_BT[0, :PROMPT].tolist(), tokens_BT[1].tolist()]  # the second is a neighbour
    options = [generate.Options(max_new_tokens=NEW, temperature=0, ends=False)] * 2
    engine = generate.Engine(Skeleton(model, VOCAB), parameters, encoding.tokens, None, slots=2)
    assert prompts[0] + generate.generate(engine, prompts, options)[0].ids == theirs["greedy"][0].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_json_makes_the_same_ids(name, cases):
    folder = cases / f"tokenizer_{name}"
    ours, _ = vocabulary.existing(settings(file=str(folder / "tokenizer.json")))
    theirs = np.load(folder / "out.npz")["ids"].tolist()
    assert theirs == ours.encode(EVERY_SIGN) and len(theirs) > 50


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_compute_the_same(name, cases, table):
    theirs = dict(np.load(cases / f"in_{name}" / "out.npz"))
    folder = hugging_face.Folder(cases / f"in_{name}" / "made")
    model = shape(**folder.shape, context_length=CONTEXT)
    folder.check(model, folder.vocab_rows)
    planned = random_parameters(model, folder.vocab_rows)
    parameters = {each: folder.parameter(each, value.shape) for each, value in planned.items()}
    ours = computed(model, folder.vocab_rows, parameters, random_tokens(48))
    table[f"{theirs['architecture']} in, {name}"] = found = differences(ours, theirs)
    assert max(found.values()) < BOUND, found
