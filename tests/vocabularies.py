"""Small tokenizers and the texts that they are tried on."""

import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import tokenizers
import yaml

from makelm import tokenizer_export, vocabulary
from makelm.config_tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, TiktokenTokenizer
from makelm.tokenizer import END_OF_TEXT, Tokenizer

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
    return BpeTokenizer(corpus="any", sample_bytes=None, vocab_size=vocab_size, pattern=pattern, **ends)


def train(found, texts: list[str]) -> Tokenizer:
    """Returns a tokenizer of its own, learned from texts where it learns."""
    return vocabulary.existing(found)[0] if found.kind == "byte" else vocabulary.train(found, texts)


def known(encoding: str, file: Path | None = None, **ends: bool) -> TiktokenTokenizer:
    """Returns the settings of an encoding that exists."""
    ends = {"begin_of_text": False, "end_of_text": True} | ends
    return TiktokenTokenizer(kind="tiktoken", encoding=encoding, file=file and str(file), encoder="tiktoken", **ends)


def hugging_face(made: Tokenizer) -> tokenizers.Tokenizer:
    """Returns the tokenizer in the exported files; text in it is text, as it is for ours."""
    files = tokenizer_export.hugging_face_files(made)
    found = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    found.encode_special_tokens = True
    return found


def every_character(before: int = sys.maxunicode + 1) -> Iterator[str]:
    """Yields texts in which each character of Unicode below a code stands beside a letter, a digit and a space."""
    assigned = [chr(code) for code in range(before) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    for start in range(0, len(assigned), 100):
        yield "".join(f"a{character}1{character}b {character}\n" for character in assigned[start : start + 100])


def learned(kind: str) -> Tokenizer:
    """Returns a tokenizer that knows all characters of the texts."""
    return train(settings(kind), [*TEXTS, *ADVERSARIAL])
