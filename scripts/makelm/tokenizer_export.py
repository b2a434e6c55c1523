"""A tokenizer as Hugging Face's libraries read it: the same ids from tokenizer.json as from tiktoken."""

import json
import re

from makelm.tokenizer import Tokenizer
from makelm.tokenizer_ranks import Ranks, byte_level_signs

# what {1,3}+ stands behind: a class of characters, an escape or a character
POSSESSIVE = re.compile(r"(\\[pP]\{\w+\}|\[(?:\\.|[^\]\\])+\]|\\.|[^\\\])])(\{\d+,\d*\})\+")
ANY_CHARACTER = r"[\s\S]"  # tiktoken's (?s). : in Oniguruma, which `tokenizers` uses, (?s) means something else


def hugging_face_files(tokenizer: Tokenizer, context_length: int | None = None) -> dict[str, bytes]:
    """Returns file name -> content: tokenizer.json and tokenizer_config.json; of SentencePiece, its own model file.

    `context_length` is that of the model it stands beside, if any.
    """
    if tokenizer.kind == "sentencepiece":  # transformers would make another tokenizer of it, not always with these ids
        return {tokenizer.FILE: tokenizer.content}
    exists = tokenizer.kind == "huggingface"
    return {
        "tokenizer.json": tokenizer.content if exists else written(tokenizer_json(tokenizer)),
        "tokenizer_config.json": written(tokenizer_config(tokenizer, context_length)),
    }


def written(content: dict) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def tokenizer_config(tokenizer: Tokenizer, context_length: int | None) -> dict:
    """Returns tokenizer_config.json: which special tokens stand around a document, and how long a text may be."""
    names = {number: content for content, number in tokenizer.special_tokens.items()}
    ends = {"bos_token": tokenizer.first, "eos_token": tokenizer.end_of_text}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **({} if context_length is None else {"model_max_length": context_length}),
        **{key: names[number] for key, number in ends.items() if number is not None},
    }


def tokenizer_json(tokenizer: Ranks) -> dict:
    """Returns tokenizer.json."""
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
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(tokenizer),
        "post_processor": post_processor(tokenizer),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def post_processor(tokenizer: Ranks) -> dict | None:
    """Returns what puts the token before a text that stands before each document, where there is one."""
    if tokenizer.begin_of_text is None:
        return None
    number = tokenizer.begin_of_text
    name = next(content for content, each in tokenizer.special_tokens.items() if each == number)
    begin, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def reserved(tokenizer: Ranks) -> dict[str, int]:
    """Returns the special tokens that must stand in the vocabulary too, since `tokenizers` would number them on."""
    return tokenizer.special_tokens if tokenizer.kind == "tiktoken" else {}


def pre_tokenizer(tokenizer: Ranks) -> dict:
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
