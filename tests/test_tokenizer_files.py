"""Tokenizers that others made: a tokenizer.json, of this machine or of the hub, and SentencePiece's models."""

import io
import json
import unicodedata
from pathlib import Path

import hub
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from vocabularies import ADVERSARIAL, TEXTS

from makelm import tokenizer, tokenizer_export, vocabulary
from makelm.config_tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer
from makelm.errors import UserError

END, BEGIN = "</s>", "<s>"
SPECIAL = [BEGIN, END, "<unk>"]
LITERALS = [f"a{END}b", f"{END}", f" {END} ", f"{BEGIN}{END}", "x </s> y <s> z"]
LEARNED = [*TEXTS, "the cat and the hat </s>", "s </ s > < s"] * 5


def byte_level() -> tokenizers.Tokenizer:
    """Returns a byte-level BPE as most models have, with all that its users may have switched on."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(LEARNED, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    made.add_special_tokens([BEGIN, END])
    made.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", None, [(BEGIN, made.token_to_id(BEGIN))])
    made.enable_truncation(7)
    made.enable_padding(length=9)
    return made


def unigram() -> tokenizers.Tokenizer:
    """Returns a Unigram model like T5's: its special tokens stand in its own vocabulary too."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        LEARNED, trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")
    )
    return made


def words() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(LEARNED, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return made


def word_pieces() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.train_from_iterator(LEARNED, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    return made


KINDS = {"byte_level": byte_level, "unigram": unigram, "words": words, "word_pieces": word_pieces}


def settings(**change: object) -> HuggingFaceTokenizer:
    keys = {"kind": "huggingface", "file": None, "repository": None, "revision": None}
    return HuggingFaceTokenizer(**keys | {"begin_of_text": None, "end_of_text": END} | change)


@pytest.fixture(params=KINDS)
def library(request) -> tokenizers.Tokenizer:
    return KINDS[request.param]()


def made_of(library: tokenizers.Tokenizer, folder: Path, **change: object) -> tokenizer.Tokenizer:
    path = folder / "some.json"
    library.save(str(path))
    return vocabulary.existing(settings(file=str(path), **change))[0]


# ---- tokenizer.json


def test_ids_are_those_of_the_library(library, tmp_path):
    found = made_of(library, tmp_path)
    library.no_truncation()
    library.no_padding()
    texts = [text for text in [*TEXTS, *ADVERSARIAL] if "<" not in text]
    for text in texts:
        ids = library.encode(text, add_special_tokens=False).ids
        assert found.encode(text) == ids, text
        assert found.decode(ids) == library.decode(ids)
    assert [ids.tolist() for ids in found.encode_batch(texts)] == [found.encode(text) for text in texts]
    assert found.vocab_size == max(library.get_vocab().values()) + 1


def test_no_text_becomes_a_special_token(library, tmp_path):
    found = made_of(library, tmp_path, begin_of_text=BEGIN)
    assert (found.begin_of_text, found.end_of_text) == (library.token_to_id(BEGIN), library.token_to_id(END))
    for text in [*LITERALS, *found.special_tokens]:
        assert not {found.begin_of_text, found.end_of_text} & set(found.encode(text)), text
    assert found.decode([found.begin_of_text, *found.encode("the"), found.end_of_text]) == found.decode(
        found.encode("the")
    )


def test_a_byte_level_one_gives_every_text_back(tmp_path):
    found = made_of(byte_level(), tmp_path)
    for text in [*TEXTS, *ADVERSARIAL, *LITERALS]:
        ids = found.encode(text)
        assert found.decode(ids) == text == b"".join(found.tokens[each] for each in ids).decode()
    for plane in range(17):
        text = "".join(map(chr, range(plane << 16, (plane + 1) << 16, 7)))
        text = "".join(character for character in text if unicodedata.category(character) != "Cs")
        assert found.decode(found.encode(text)) == text, plane
    assert {found.tokens[each] for each in range(found.vocab_size)} >= {bytes([value]) for value in range(256)}


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    library = byte_level()
    library.add_tokens(["    ", "<think>"])
    found = made_of(library, tmp_path)
    assert found.encode("    <think>") == [library.token_to_id("    "), library.token_to_id("<think>")]
    assert found.tokens[library.token_to_id("<think>")] == b"<think>"
    assert found.decode(found.encode("a    <think>")) == "a    <think>"


def test_it_is_read_back_and_exported_as_it_is(library, tmp_path):
    found = made_of(library, tmp_path, begin_of_text=BEGIN)
    (tmp_path / "made").mkdir()
    found.save(tmp_path / "made")
    assert tokenizer.load(tmp_path / "made") == found
    metadata = json.loads((tmp_path / "made/metadata.json").read_text())
    assert (metadata["kind"], metadata["file"]) == ("huggingface", "tokenizer.json")
    assert metadata["digest"] == found.digest != made_of(library, tmp_path).digest
    files = tokenizer_export.hugging_face_files(found)
    assert files["tokenizer.json"] == (tmp_path / "some.json").read_bytes()
    ends = json.loads(files["tokenizer_config.json"])
    assert (ends["bos_token"], ends["eos_token"]) == (BEGIN, END)
    (tmp_path / "made/tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing; run train_tokenizer"):
        tokenizer.load(tmp_path / "made")


def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.end_of_text: .*some\.json has no token '<eos>'; its special"):
        made_of(byte_level(), tmp_path, end_of_text="<eos>")
    path = tmp_path / "none.json"
    with pytest.raises(UserError, match=r"tokenizer\.file: cannot read .*none\.json: No such file"):
        vocabulary.existing(settings(file=str(path)))
    for content in ("{}", "no", "[]", '{"added_tokens": []}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"none\.json is no tokenizer\.json: "):
            vocabulary.existing(settings(file=str(path)))


def test_one_of_the_hub_is_fetched_at_its_commit(tmp_path, monkeypatch):
    content = byte_level().to_str().encode()
    with hub.serve() as server:
        hub.use(server, monkeypatch, str(tmp_path))
        server.models |= {"org/one": {"tokenizer.json": content}, "org/two": {"config.json": b"{}"}}
        found, commit = vocabulary.existing(settings(repository="org/one"))
        assert commit == hub.COMMIT and found.content == content
        assert server.asked == ["tokenizer.json"]
        with pytest.raises(UserError, match=r"tokenizer\.repository: org/two has no tokenizer\.json"):
            vocabulary.existing(settings(repository="org/two"))
        with pytest.raises(UserError, match=r"tokenizer\.revision: org/one has no revision v9"):
            vocabulary.existing(settings(repository="org/one", revision="v9"))
        with pytest.raises(UserError, match=r"tokenizer\.repository: org/none is not on the hub"):
            vocabulary.existing(settings(repository="org/none"))


# ---- SentencePiece


def trained_model(**change: object) -> bytes:
    """Returns a model that SentencePiece trains here."""
    file = io.BytesIO()
    keys = {
        "vocab_size": 340,
        "model_type": "unigram",
        "byte_fallback": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    } | change
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LEARNED), model_writer=file, **keys)
    return file.getvalue()


def piece_model(folder: Path, begin_of_text: bool = True, end_of_text: bool = True, **change: object):
    path = folder / "some.model"
    path.write_bytes(trained_model(**change))
    ends = {"begin_of_text": begin_of_text, "end_of_text": end_of_text}
    return vocabulary.existing(SentencePieceTokenizer(kind="sentencepiece", file=str(path), **ends))[0]


PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepieces_ids_are_its_own_and_none_is_a_control_token(tmp_path, model_type):
    found = piece_model(tmp_path, model_type=model_type)
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "some.model"))
    for text in [*TEXTS, *ADVERSARIAL, *LITERALS]:
        assert found.encode(text) == own.encode(text)
        assert not {found.begin_of_text, found.end_of_text} & set(found.encode(text))
        assert found.decode([found.begin_of_text, *found.encode(text), found.end_of_text]) == own.decode(
            own.encode(text)
        )
    assert (found.begin_of_text, found.end_of_text) == (own.bos_id(), own.eos_id())
    assert found.vocab_size == own.vocab_size() and found.special_tokens == {BEGIN: 1, END: 2}


def test_one_that_normalizes_nothing_gives_every_text_back(tmp_path):
    found = piece_model(tmp_path, **PLAIN)
    for text in [*TEXTS, *ADVERSARIAL, *LITERALS]:
        if "\u2581" not in text and "\0" not in text:  # its own sign for a space; where it ends a text
            assert found.decode(found.encode(text)) == text
            assert b"".join(found.tokens[each] for each in found.encode(text)) == text.encode()
    for plane in (0, 1, 2, 3, 14, 15, 16):
        text = "".join(map(chr, range((plane << 16) + 1, (plane + 1) << 16, 37)))
        text = "".join(each for each in text if unicodedata.category(each) != "Cs" and each != "\u2581")
        assert found.decode(found.encode(text)) == text, plane


def test_a_model_is_read_back_and_handed_on(tmp_path):
    found = piece_model(tmp_path, begin_of_text=False)
    found.save(tmp_path)
    assert tokenizer.load(tmp_path) == found and found.begin_of_text is None
    assert tokenizer_export.hugging_face_files(found) == {"tokenizer.model": (tmp_path / "some.model").read_bytes()}
    (tmp_path / "tokenizer.model").write_bytes(trained_model(model_type="bpe"))
    with pytest.raises(UserError, match="damaged tokenizer"):
        tokenizer.load(tmp_path)


def test_a_model_that_is_none_or_lacks_a_chosen_token_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.begin_of_text: .*some\.model has no such token; set it to false"):
        piece_model(tmp_path, bos_id=-1)
    assert piece_model(tmp_path, begin_of_text=False, bos_id=-1).end_of_text is not None
    keys = SentencePieceTokenizer(
        kind="sentencepiece", file=str(tmp_path / "a.model"), begin_of_text=False, end_of_text=False
    )
    (tmp_path / "a.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"a\.model is no SentencePiece model"):
        vocabulary.existing(keys)
