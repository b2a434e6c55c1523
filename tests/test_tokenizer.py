"""Tokenizers: lossless, deterministic, equal in tiktoken and `tokenizers`, never making a special token of a text."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tokenizers
import yaml
from tiktoken.load import load_tiktoken_bpe

from makelm import corpus, encodings, manifest, tokenizer, tokenizer_export, vocabulary
from makelm.config_tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, TiktokenTokenizer
from makelm.config_types import split_keys
from makelm.errors import UserError
from makelm.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, Tokenizer
from makelm.tokenizer_ranks import Ranks, parse_ranks

REPOSITORY = Path(__file__).resolve().parent.parent
PATTERN = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["tokenizer"]["stdlib_bpe"]["pattern"]
TEXTS = [
    "def f(x):\n    return x + 1\n",
    "we've seen the cat; the cat's hat isn't ours\n" * 3,
    "naïve 日本語 12345 \t\r\n",
]
ADVERSARIAL = [
    "",
    " ",
    "\n",
    "\r\n\r\n",
    "\0",
    END_OF_TEXT,
    f"a{END_OF_TEXT}{END_OF_TEXT}b",
    "<|endof",
    "it's IT'S I'Ve 'ſ we'RE 'll'LL",
    "a" * 3000,
    " " * 3000 + "x",
    "\n" * 3000,
    "^" * 3000,
    "1234567890" * 30,
    "e\u0301 \u00a0\u2003x\u3000\u200b\ufeff\u2028\x85\x0b\x1c",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\U0010ffff\ue000\ufffe\uffff",
    "مرحبا שלום ไทย हिन्दी 한국어",
]


def settings(
    kind: str = "bpe", vocab_size: int = 300, pattern: str = PATTERN, begin_of_text: bool = False, end_of_text=True
):
    """Returns the settings of a tokenizer of its own."""
    ends = {"kind": kind, "begin_of_text": begin_of_text, "end_of_text": end_of_text}
    if kind == "byte":
        return ByteTokenizer(**ends)
    if kind == "char":
        return CharTokenizer(corpus="any", **ends)
    return BpeTokenizer(corpus="any", vocab_size=vocab_size, pattern=pattern, **ends)


def train(found, texts: list[str]) -> Tokenizer:
    """Returns a tokenizer of its own, learned from texts where it learns."""
    return vocabulary.existing(found)[0] if found.kind == "byte" else vocabulary.train(found, texts)


def known(encoding: str, file: Path | None = None, **ends: bool) -> TiktokenTokenizer:
    """Returns the settings of an encoding that exists."""
    ends = {"begin_of_text": False, "end_of_text": True} | ends
    return TiktokenTokenizer(kind="tiktoken", encoding=encoding, file=file and str(file), encoder="tiktoken", **ends)


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def trained(request) -> Tokenizer:
    return train(settings(request.param), [*TEXTS, *ADVERSARIAL])


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


@pytest.fixture(scope="module")
def stdlib() -> list[str]:
    return [document.text for document in corpus.stdlib(Path(sysconfig.get_path("stdlib"))).documents]


def hugging_face(made: Tokenizer) -> tokenizers.Tokenizer:
    """Returns the tokenizer in the exported files; text in it is text, as it is for ours."""
    files = tokenizer_export.hugging_face_files(made)
    found = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    found.encode_special_tokens = True
    return found


# ---- text -> ids -> text


@pytest.mark.parametrize("text", [*TEXTS, *ADVERSARIAL])
def test_decoding_gives_the_text_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert b"".join(trained.token_bytes(token) for token in ids) == text.encode()
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
        assert b"".join(made.token_bytes(each) for each in ids) == wrong
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


# ---- training


def test_training_is_deterministic_whatever_the_order_of_equal_counts():
    first, second = (train(settings(), TEXTS) for _ in range(2))
    assert first.ranks == second.ranks and first.digest == second.digest
    assert list(first.ranks) != [] and first.vocab_size == 300


def test_a_vocabulary_larger_than_the_corpus_supports_is_refused_with_the_number():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: the training documents support (\d+) tokens") as error:
        train(settings(vocab_size=5000), TEXTS)
    most = int(str(error.value).split("support ")[1].split(" ")[0])
    assert train(settings(vocab_size=most), TEXTS).vocab_size == most
    with pytest.raises(UserError):
        train(settings(vocab_size=most + 1), TEXTS)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"tokenizer\.pattern: "):
        train(settings(pattern=r"\p{L}+|("), TEXTS)
    with pytest.raises(UserError, match=r"tokenizer\.pattern: "):  # Oniguruma knows \h, Rust does not
        train(settings(pattern=r"\p{Nonsense}|\h"), TEXTS)


def test_a_pattern_that_leaves_text_out_is_refused():
    made = train(settings(vocab_size=260, pattern=r"\p{L}+"), TEXTS)
    with pytest.raises(
        UserError, match=r"tokenizer\.pattern: it does not match all of the text that begins with 'two words'"
    ):
        made.encode("two words")


def test_very_long_runs_are_learned_from_and_encoded_in_time():
    run = "".join(chr(97 + number * number % 26) for number in range(200_000))
    made = train(settings(), [run, " " * 200_000, *TEXTS])
    assert made.decode(made.encode(run)) == run


def test_a_run_too_long_for_the_pattern_is_an_error_that_shows_the_text():
    made = train(settings(pattern=r"\S+|\s+(?!\S)|\s+"), TEXTS)
    with pytest.raises(UserError, match=r"tokenizer\.pattern: it cannot cut the text that begins with 'start {10}"):
        made.encode("start" + " " * 2_000_000)


def test_no_token_crosses_the_pieces_of_the_pattern():
    made = train(settings(vocab_size=267), ["the cat the cat the cat 1234567"] * 9)
    assert not any(b" " in token[1:] for token in made.ranks)
    assert max(len(token) for token in made.ranks if token.isdigit()) == 3


# ---- the two libraries


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


def every_character(before: int = sys.maxunicode + 1) -> Iterator[str]:
    """Yields texts in which each character of Unicode below a code stands beside a letter, a digit and a space."""
    assigned = [chr(code) for code in range(before) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    for start in range(0, len(assigned), 100):
        yield "".join(f"a{character}1{character}b {character}\n" for character in assigned[start : start + 100])


# ---- encodings that exist


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


ENCODINGS = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}
BEFORE_CJK = 0x3400  # all alphabets with cases, marks, signs and spaces


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
