"""Tokenizers: lossless, never making a special token of a text, the same when they are read back."""

import hashlib
import json
import unicodedata
from types import SimpleNamespace

import pytest
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from vocabularies import (
    ADVERSARIAL,
    PATTERN,
    TEXTS,
    hugging_face,
    learned,
    settings,
    train,
)

from makelm import tokenizer, vocabulary
from makelm.errors import UserError
from makelm.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, Tokenizer


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def trained(request) -> Tokenizer:
    return learned(request.param)


@pytest.mark.parametrize("text", [*TEXTS, *ADVERSARIAL])
def test_decoding_gives_the_text_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert b"".join(trained.tokens[token] for token in ids) == text.encode()
    assert all(0 <= token < len(trained.ranks) for token in ids)


def test_every_plane_of_unicode_comes_back():
    made = [train(settings(kind), TEXTS) for kind in ("bpe", "byte")]
    for plane in range(17):
        text = "".join(map(chr, range(plane << 16, (plane + 1) << 16, 7)))
        text = "".join(character for character in text if unicodedata.category(character) != "Cs")
        assert all(one.decode(one.encode(text)) == text for one in made), plane


def test_the_end_of_text_is_the_last_id_and_no_text_becomes_it(trained):
    assert trained.end_of_text == trained.vocab_size - 1 == len(trained.ranks)
    assert trained.end_of_text not in trained.encode(f"a{END_OF_TEXT}b")
    assert trained.decode([*trained.encode("ab"), trained.end_of_text]) == "ab"


def test_without_end_of_text_the_vocabulary_is_one_smaller():
    made = train(settings("byte", end_of_text=False), TEXTS)
    assert (made.vocab_size, made.end_of_text, made.special_tokens) == (256, None, {})


@pytest.mark.parametrize("kind", ["bpe", "byte", "char"])
def test_the_chosen_tokens_are_the_last_ids(kind):
    made = train(settings(kind, begin_of_text=True), TEXTS)
    assert made.special_tokens == {BEGIN_OF_TEXT: made.vocab_size - 2, END_OF_TEXT: made.vocab_size - 1}
    assert (made.begin_of_text, made.end_of_text) == (made.vocab_size - 2, made.vocab_size - 1)
    plain = train(settings(kind), TEXTS)
    assert (made.first, plain.first) == (made.begin_of_text, plain.end_of_text)
    assert kind != "bpe" or made.vocab_size == 300
    text = TEXTS[0] if kind == "char" else f"{BEGIN_OF_TEXT}{END_OF_TEXT}"
    assert max(made.encode(text)) < made.begin_of_text and made.decode([made.first, *made.encode(text)]) == text
    theirs = hugging_face(made)
    assert theirs.encode(TEXTS[0]).ids == [made.first, *made.encode(TEXTS[0])]  # as it is trained on
    only = train(settings(kind, begin_of_text=True, end_of_text=False), TEXTS)
    assert only.special_tokens == {BEGIN_OF_TEXT: only.vocab_size - 1} and only.end_of_text is None


def test_bytes_that_are_no_text_come_back():
    for kind in ("bpe", "byte"):
        made = train(settings(kind), TEXTS)
        number = {token: each for each, token in enumerate(made.tokens)}
        wrong = b"\xff\xfe\x80 \xed\xa0\x80 \xc0\xaf \xf5\x80\x80\x80" + bytes(range(256))
        ids = [number[bytes([value])] for value in wrong]
        assert b"".join(made.tokens[each] for each in ids) == wrong
        assert made.decode(ids) == wrong.decode(errors="replace")


def test_half_a_surrogate_pair_is_refused_in_one_line(trained):
    with pytest.raises(UserError, match=r"character 2 of .* is half of a surrogate pair|no character"):
        trained.encode("ab\ud800")


def test_half_a_character_is_shown_as_a_replacement_sign():
    made = train(settings("byte"), TEXTS)
    assert made.decode([0xC3, 0x41]) == "\ufffdA"


def test_bytes_are_their_own_ids():
    assert train(settings("byte"), TEXTS).encode("aé\0") == [0x61, 0xC3, 0xA9, 0]


def test_characters_are_numbered_in_their_order_as_nanogpt_does():
    made = train(settings("char", end_of_text=False), ["cab\n", "éa"])
    assert made.vocab_size == 5 and made.encode("\nabcé") == [0, 1, 2, 3, 4]


def test_the_characters_of_tiny_shakespeare_are_nanogpts(shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    made = train(settings("char", end_of_text=False), [text[:1_003_854]])
    assert made.vocab_size == 65
    assert [len(made.encode(part)) for part in (text[:1_003_854], text[1_003_854:])] == [1_003_854, 111_540]
    assert made.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]  # as in Karpathy's lecture


def test_an_unknown_character_is_an_error_that_names_it():
    made = train(settings("char"), ["abc"])
    with pytest.raises(UserError, match=r"no character 'é' \(U\+00E9\)"):
        made.encode("abéz")


# ---- the files


def test_a_tokenizer_is_read_back_as_it_was_saved(trained, tmp_path):
    trained.save(tmp_path)
    found = tokenizer.load(tmp_path)
    assert found == trained and found.digest == trained.digest
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata == {
        "kind": trained.kind,
        "file": "tokenizer.tiktoken",
        "pattern": trained.pattern,
        "begin_of_text": None,
        "end_of_text": trained.vocab_size - 1,
        "special_tokens": {END_OF_TEXT: trained.vocab_size - 1},
        "vocab_size": trained.vocab_size,
        "digest": trained.digest,
    }


def test_tiktoken_reads_the_file_itself(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    trained.save(tmp_path)
    ranks = load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken"))
    theirs = tiktoken.Encoding("x", pat_str=trained.pattern, mergeable_ranks=ranks, special_tokens={})
    assert theirs.encode_ordinary(TEXTS[1]) == trained.encode(TEXTS[1])


def test_the_digest_covers_ranks_pattern_and_special_tokens():
    made = [
        train(settings(), TEXTS),
        train(settings(vocab_size=299), TEXTS),
        train(settings(vocab_size=299, end_of_text=False), TEXTS),
        train(settings(pattern=rf"{PATTERN}|z"), TEXTS),
    ]
    assert len({one.digest for one in made}) == 4


def test_a_damaged_or_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.json is missing; run train_tokenizer"):
        tokenizer.load(tmp_path)
    train(settings(), TEXTS).save(tmp_path)
    path = tmp_path / "tokenizer.tiktoken"
    whole = path.read_bytes()
    for broken in (whole[:-1][: whole.rindex(b"\n", 0, -1) + 1], whole.replace(b"IQ==", b"Ig=="), b"!" + whole, b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged tokenizer"):
            tokenizer.load(tmp_path)
    path.write_bytes(whole)
    metadata = tmp_path / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"bpe"', '"bpe', 1))
    with pytest.raises(UserError, match="damaged tokenizer"):
        tokenizer.load(tmp_path)


def test_the_digest_is_the_one_that_is_written_down(tmp_path):
    made = train(settings("byte"), TEXTS)
    made.save(tmp_path)
    rest = b'{"begin_of_text":null,"end_of_text":256,"file":"tokenizer.tiktoken","kind":"byte","pattern":"(?s).",'
    rest += b'"special_tokens":{"<|endoftext|>":256},"vocab_size":257}'
    assert made.digest == hashlib.sha256((tmp_path / "tokenizer.tiktoken").read_bytes() + rest).hexdigest()


@pytest.mark.parametrize("make", [lambda new: vocabulary.train(new, ["text"]), vocabulary.existing])
def test_a_kind_that_only_the_configuration_knows_is_an_error(make):
    new = SimpleNamespace(kind="new", begin_of_text=False, end_of_text=True, file=None)
    with pytest.raises(AssertionError, match="new"):
        make(new)


def test_a_saved_tokenizer_of_a_kind_that_nothing_reads_is_not_called_damaged(tmp_path):
    train(settings(), TEXTS).save(tmp_path)
    metadata = tmp_path / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"kind": "bpe"', '"kind": "new"'))
    with pytest.raises(AssertionError, match="new"):
        tokenizer.load(tmp_path)
