"""The two libraries: what is exported for `tokenizers` agrees with tiktoken, id for id."""

import sysconfig
from pathlib import Path

import pytest
from vocabularies import ADVERSARIAL, TEXTS, every_character, hugging_face, learned, settings, train

from makelm import corpus, tokenizer_export
from makelm.tokenizer import END_OF_TEXT, Tokenizer


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def trained(request) -> Tokenizer:
    return learned(request.param)


@pytest.fixture(scope="module")
def stdlib() -> list[str]:
    return [document.text for document in corpus.stdlib(Path(sysconfig.get_path("stdlib"))).documents]


@pytest.mark.parametrize("text", [*TEXTS, *ADVERSARIAL])
def test_the_exported_tokenizer_agrees_id_for_id(trained, text):
    theirs = hugging_face(trained)
    assert theirs.encode(text).ids == trained.encode(text)
    assert theirs.decode(trained.encode(text)) == text


def test_both_libraries_agree_id_for_id_on_the_whole_standard_library(stdlib):
    made = train(settings(vocab_size=2048), stdlib)
    theirs = hugging_face(made)
    ours = made.encode_batch(stdlib)
    for start in range(0, len(stdlib), 50):
        for mine, other in zip(ours[start:], theirs.encode_batch_fast(stdlib[start : start + 50]), strict=False):
            assert mine.tolist() == other.ids
    assert sum(map(len, ours)) > 2_000_000


def test_the_exported_tokenizer_knows_the_end_of_text(trained):
    theirs = hugging_face(trained)
    assert theirs.token_to_id(END_OF_TEXT) == trained.end_of_text
    assert theirs.get_vocab_size() == trained.vocab_size
    theirs.encode_special_tokens = False  # the default of the library: its users write it out
    assert theirs.encode(END_OF_TEXT).ids == [trained.end_of_text]
    plain = train(settings("byte", end_of_text=False), TEXTS)
    assert b"eos_token" not in tokenizer_export.hugging_face_files(plain)["tokenizer_config.json"]


def test_every_character_is_cut_alike():
    made = train(settings(), TEXTS)
    theirs = hugging_face(made)
    for text in every_character():
        assert theirs.encode_batch_fast([text])[0].ids == made.encode(text), text
