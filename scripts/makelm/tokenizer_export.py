"""A tokenizer as Hugging Face's libraries read it: the same ids from tokenizer.json as from tiktoken."""

import re

from makelm.tokenizer import END_OF_TEXT, Tokenizer, byte_level_signs

# what {1,3}+ stands behind: a class of characters, an escape or a character
POSSESSIVE = re.compile(r"(\\[pP]\{\w+\}|\[(?:\\.|[^\]\\])+\]|\\.|[^\\\])])(\{\d+,\d*\})\+")
ANY_CHARACTER = r"[\s\S]"  # tiktoken's (?s). : in Oniguruma, which `tokenizers` uses, (?s) means something else


def hugging_face_files(tokenizer: Tokenizer) -> dict[str, dict]:
    """Returns file name -> content of tokenizer.json and tokenizer_config.json."""
    signs = byte_level_signs()
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [
        {"id": number, "content": content, "special": True, **plain}
        for content, number in tokenizer.special_tokens.items()
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,  # as tiktoken: a piece that is a token is that token, however it was merged
        "vocab": {spell(token, signs): rank for token, rank in tokenizer.ranks.items()} | reserved(tokenizer),
        "merges": [[spell(left, signs), spell(right, signs)] for left, right in merges(tokenizer.ranks)],
    }
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer(tokenizer),
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": model,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **({"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} if special else {}),
        },
    }


def reserved(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the special tokens that must stand in the vocabulary too, since `tokenizers` would number them on."""
    return tokenizer.special_tokens if tokenizer.kind == "tiktoken" else {}


def pre_tokenizer(tokenizer: Tokenizer) -> dict:
    """Returns how a text is cut into pieces, and their bytes spelt as signs."""
    # Oniguruma reads a{1,3}+ as (a{1,3})+
    pattern = POSSESSIVE.sub(r"(?>\1\2)", tokenizer.pattern)
    if tokenizer.kind in ("byte", "char"):
        pattern = ANY_CHARACTER
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Returns the pairs that merge, first the ones that merge first.

    tiktoken merges any two neighbours that make a token, so each way to cut a token in two is a pair.
    """
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        found += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found


def spell(token: bytes, signs: list[str]) -> str:
    return "".join(signs[value] for value in token)
