"""Encodings that exist: with their own ids, cuts and special tokens, read and exported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from vocabularies import (
    ADVERSARIAL,
    REPOSITORY,
    TEXTS,
    every_character,
    hugging_face,
    known,
    settings,
    train,
)

from makelm import encodings, manifest, tokenizer, vocabulary
from makelm.config_types import split_keys
from makelm.errors import UserError
from makelm.tokenizer import END_OF_TEXT, Tokenizer
from makelm.tokenizer_ranks import Ranks, parse_ranks

ENCODINGS = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}
BEFORE_CJK = 0x3400  # all alphabets with cases, marks, signs and spaces


@pytest.fixture(scope="module")
def gpt2_file() -> Path:
    """Returns GPT-2's ranks in tiktoken's format (r50k_base.tiktoken), or skips the test."""
    path = Path(os.environ.get("MAKELM_TEST_GPT2", "gpt2.tiktoken"))
    if not path.exists():
        pytest.skip("MAKELM_TEST_GPT2 does not name the file of GPT-2's ranks")
    return path


@pytest.fixture(scope="module")
def gpt2(gpt2_file) -> Tokenizer:
    return vocabulary.named(known("gpt2", gpt2_file))


def test_gpt2_makes_of_tiny_shakespeare_as_many_tokens_as_for_nanogpt(gpt2, gpt2_file, shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    parts = text[:1_003_854], text[1_003_854:]
    assert [len(gpt2.encode(part)) for part in parts] == [301_966, 36_059]
    read = encodings.definition("gpt2", lambda *_: parse_ranks(gpt2_file.read_bytes()))
    assert tiktoken.Encoding(**read).encode_ordinary(text) == gpt2.encode(text)
    assert (gpt2.vocab_size, gpt2.end_of_text, gpt2.special_tokens) == (50257, 50256, {END_OF_TEXT: 50256})
    assert gpt2.encode("hello world") == [31373, 995]


def test_its_one_token_stands_before_or_after_a_document(gpt2_file):
    for ends in ((True, False), (False, True), (False, False)):
        made = vocabulary.named(known("gpt2", gpt2_file, begin_of_text=ends[0], end_of_text=ends[1]))
        assert (made.begin_of_text, made.end_of_text) == tuple(50256 if chosen else None for chosen in ends)
        assert made.vocab_size == 50257 and 50256 not in made.encode(END_OF_TEXT)


def test_gpt2_is_read_back_and_exported(gpt2, shakespeare, tmp_path):
    gpt2.save(tmp_path)
    assert tokenizer.load(tmp_path) == gpt2
    theirs = hugging_face(gpt2)
    for text in [*TEXTS, *ADVERSARIAL, shakespeare.read_text(encoding="utf-8")]:
        assert theirs.encode(text).ids == gpt2.encode(text)
    assert theirs.token_to_id(END_OF_TEXT) == 50256 and theirs.get_vocab_size() == 50257


@pytest.fixture(scope="module", params=ENCODINGS)
def small(request) -> tuple[str, Tokenizer]:
    """Returns an encoding's name, and it with its pattern and special tokens but few ranks."""
    few = train(settings(), [*TEXTS, *ADVERSARIAL]).ranks
    found = encodings.definition(request.param, lambda *_: few)
    special = found["special_tokens"]
    return request.param, Ranks("tiktoken", found["pat_str"], few, special, None, special[END_OF_TEXT])


def test_special_tokens_keep_their_ids_and_no_text_becomes_one(small):
    name, made = small
    assert made.vocab_size == ENCODINGS[name] == max(made.special_tokens.values()) + 1
    assert made.end_of_text == made.special_tokens[END_OF_TEXT]
    for content, number in made.special_tokens.items():
        assert number not in made.encode(f"a{content}b") and made.decode([number]) == ""
    unused = made.vocab_size - 1 - len(made.ranks)
    assert made.decode([*made.encode("ab"), unused]) == "ab"  # what an untrained model may say


def test_an_encoding_that_exists_is_exported_with_the_same_cuts_and_ids(small):
    _, made = small
    theirs = hugging_face(made)
    for text in [*TEXTS, *ADVERSARIAL, *every_character(BEFORE_CJK), *made.special_tokens]:
        assert theirs.encode(text).ids == made.encode(text), text
    assert {content: theirs.token_to_id(content) for content in made.special_tokens} == made.special_tokens
    theirs.encode_special_tokens = False
    for content, number in made.special_tokens.items():
        assert theirs.encode(content).ids == [number]


def test_the_stage_makes_it_of_no_corpus_and_forgets_the_file(gpt2, gpt2_file, tmp_path):
    result, execution = split_keys(known("gpt2", gpt2_file))
    words = ["--config", json.dumps({"locked": {}, "tokenizer": result}), "--out", str(tmp_path / "out")]
    words += ["--execution", json.dumps({"tokenizer": execution})]
    subprocess.run([sys.executable, REPOSITORY / "scripts/train_tokenizer.py", *words], check=True, capture_output=True)
    assert tokenizer.load(tmp_path / "out") == gpt2
    content = manifest.read(tmp_path / "out/manifest.json")["content"]
    assert content["config"]["tokenizer"] == result and content["inputs"] == {}
    assert content["facts"]["vocab_size"] == 50257 and str(gpt2_file) not in json.dumps(content)


def test_a_file_that_is_not_the_encodings_own_is_refused(tmp_path):
    wrong = tmp_path / "wrong.tiktoken"
    wrong.write_bytes(b"IQ== 0\n")
    with pytest.raises(UserError, match=r"tokenizer\.file: .*wrong\.tiktoken does not hold the ranks"):
        vocabulary.named(known("cl100k_base", wrong))
    with pytest.raises(UserError, match=r"tokenizer\.file: cannot read .*none\.tiktoken: No such file"):
        vocabulary.named(known("cl100k_base", tmp_path / "none.tiktoken"))


def test_without_the_network_an_encoding_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    def offline(address: str) -> bytes:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(tiktoken.load, "read_file", offline)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"tokenizer\.encoding: cannot fetch https.*o200k.*ConnectionError; .* as tok"):
        vocabulary.named(known("o200k_base"))
