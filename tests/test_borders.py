"""Where long texts are cut: only where a pattern surely ends a piece, and so that their ids stay the same."""

import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from makelm import borders, encoding, encodings, tokenizer_ranks
from makelm.documents import TextPart

REPOSITORY = Path(__file__).resolve().parent.parent
SIGNS = [
    "\n",
    "\n\n",
    " ",
    "  ",
    "\t",
    "\r\n",
    "a",
    "B",
    "it's",
    "'",
    "7",
    "1234",
    ".",
    ")",
    "é",
    "ſ",
    "K",
    "日",
    "\u3000",
    "/",
]


def written_patterns() -> dict[str, str]:
    """Returns the patterns of config.yaml and the presets."""
    found = {}
    for path in [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "workflow/presets").glob("*.yaml"))]:
        entries = yaml.safe_load(path.read_text()).get("tokenizer", {})
        found |= {name: entry["pattern"] for name, entry in entries.items() if "pattern" in entry}
    return found


def named_patterns() -> dict[str, str]:
    names = ("gpt2", "p50k_base", "cl100k_base", "o200k_base")
    return {name: encodings.definition(name, lambda *_: {})["pat_str"] for name in names}


PATTERNS = written_patterns() | named_patterns() | {"character": "(?s).", "words": r"\S+|\s+", "runs": r"\w+\s|\W|\w+"}


def made(pattern: str) -> tokenizer_ranks.Ranks:
    """Returns a tokenizer that merges all it may: any two and four neighbours of a small alphabet."""
    letters = sorted({byte for sign in SIGNS for byte in sign.encode()})
    rest = [value for value in range(256) if value not in letters]
    pairs = [bytes([left, right]) for left in letters for right in letters]
    fours = [left + right for left in pairs[::7] for right in pairs[::11]]
    tokens = list(dict.fromkeys([*(bytes([value]) for value in [*letters, *rest]), *pairs, *fours]))
    return tokenizer_ranks.Ranks("bpe", pattern, {token: rank for rank, token in enumerate(tokens)}, {}, None, None)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_cut_at_every_border_has_the_same_ids(name):
    found = made(PATTERNS[name])
    generator = random.Random(0)
    assert found.border is not None
    cut = 0
    for _ in range(300):
        text = "".join(generator.choices(SIGNS, k=30))
        parts = [*(TextPart(character, False) for character in text[:-1]), TextPart(text[-1], True)]
        cut += len(list(encoding.spans(parts, found))) - 1
        pieces = encoding.encode(found, parts, 1, found.encode_batch)
        assert np.concatenate([each.ids for each in pieces]).tolist() == found.encode(text), text
    assert cut > 100


@pytest.mark.parametrize(
    "pattern",
    [
        r"[\s\S]+",  # one piece
        r"[\s\S]{1,1000}",  # pieces that depend on all before them
        r".*|\n|[\s\S]\n[a-z]|[a-z] |[a-z]\n",
        r"\w+\b|\W",  # looks back
        r"(?<=a)b|[\s\S]",
        r"\w+(?=\n\w)|[\s\S]",  # looks further ahead than one character
        r"(a)\1|[\s\S]",
        r"\P{L}+|\p{L}+",  # what is not known here
        r"[\p{Greek}]+|[\s\S]",
        r"[a[\n]]+|[\s\S]",  # a class within a class, in other libraries
        r"[\w--a]+|\s",
        r"(",
    ],
)
def test_where_nothing_is_sure_nothing_is_cut(pattern):
    assert borders.border(pattern) is None


def test_what_may_stand_beside_each_other_in_a_match():
    assert ("\n", "a") not in borders.neighbours(r"\n|a") and ("\n", "a") in borders.neighbours(r"\n?a")
    assert ("\n", "a") in borders.neighbours(r"(?:\n|b)+a|c") and ("a", "a") in borders.neighbours(r"a+")
    assert ("k", "k") in borders.neighbours("(?i)\u212a+"), "the sign of kelvin is a k in another case"
    assert ("k", "k") in borders.neighbours("(?i)[\u2000-\u2fff]+")
    assert (" ", "a") in borders.neighbours(r"[^\n]+") and ("\n", "a") not in borders.neighbours(r"[^\n]+")
