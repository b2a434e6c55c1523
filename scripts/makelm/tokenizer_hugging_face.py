"""Tokenizers in Hugging Face's format, a tokenizer.json, computed by the library `tokenizers`."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import tokenizers

from makelm.errors import UserError
from makelm.tokenizer import FromFile
from makelm.tokenizer_ranks import begin, byte_level_signs

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class HuggingFace(FromFile):
    """The content of a tokenizer.json.

    Its normalizer may change a text, so decoding need not give the text back.
    """

    FILE: ClassVar[str] = "tokenizer.json"
    kind: ClassVar[str] = "huggingface"

    @cached_property
    def vocab_size(self) -> int:
        return max(self.library.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Returns tokenizer.json as this uses it: whole texts, nothing around them, and no special token in them.

        A special token that is also in the model's vocabulary could be what the model makes of a text. So it gets a
        name there that no text has, and keeps its id.
        """
        plan = json.loads(self.data)
        plan |= {"truncation": None, "padding": None, "post_processor": None}
        hidden = {content: f"\0{content}\0" for content in self.special_tokens if content != unknown(plan["model"])}
        for token in plan["added_tokens"]:
            token["content"] = hidden.get(token["content"], token["content"])
        vocabulary = plan["model"]["vocab"]
        if isinstance(vocabulary, dict):
            plan["model"]["vocab"] = {hidden.get(token, token): number for token, number in vocabulary.items()}
        else:
            plan["model"]["vocab"] = [[hidden.get(token, token), weight] for token, weight in vocabulary]
        return plan

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        found = tokenizers.Tokenizer.from_str(json.dumps(self.plan))
        found.encode_special_tokens = True  # as text
        return found

    @cached_property
    def hidden(self) -> np.ndarray:
        """Returns the ids that no text may become."""
        name = unknown(self.plan["model"])
        return np.array([number for content, number in self.special_tokens.items() if content != name], np.uint32)

    @cached_property
    def tokens(self) -> list[bytes]:
        tokens = [b""] * self.vocab_size
        spelled = spelling(self.plan)
        for content, number in self.library.get_vocab(with_added_tokens=True).items():
            tokens[number] = spelled(content)
        for number in self.special_tokens.values():
            tokens[number] = b""
        for token in self.plan["added_tokens"]:  # these are written as they are
            if token["id"] not in self.special_tokens.values():
                tokens[token["id"]] = token["content"].encode()
        return tokens

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self.checked(text, np.array(each.ids, np.uint32)) for text, each in zip(texts, found, strict=True)]

    def checked(self, text: str, ids: np.ndarray) -> np.ndarray:
        """Returns the ids. Raises UserError where one of them is a special token."""
        if np.isin(ids, self.hidden).any():
            raise UserError(f"this tokenizer makes a special token of {begin(text)}; take it out of the text")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        special = set(self.special_tokens.values())
        return self.library.decode([int(token) for token in ids if token not in special])


def make(content: bytes, begin_of_text: str | None, end_of_text: str | None, where: str) -> HuggingFace:
    """Returns the tokenizer of a tokenizer.json. Raises UserError where it is none or lacks a token that is named."""
    try:
        plan, found = json.loads(content), tokenizers.Tokenizer.from_str(content.decode())
        special = {token["content"]: token["id"] for token in plan["added_tokens"] if token["special"]}
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{where} is no tokenizer.json: {' '.join(str(error).split())[:200]}") from None
    for key, name in (("begin_of_text", begin_of_text), ("end_of_text", end_of_text)):
        if name is not None and found.token_to_id(name) is None:
            there = ", ".join(special) or "none"
            raise UserError(f"tokenizer.{key}: {where} has no token {name!r}; its special tokens: {there}")
    ends = {name: found.token_to_id(name) for name in (begin_of_text, end_of_text) if name is not None}
    return HuggingFace(content, special | ends, ends.get(begin_of_text), ends.get(end_of_text))


def unknown(model: dict[str, Any]) -> str | None:
    """Returns the token that stands for what the model does not know, if there is one."""
    if "unk_id" in model:
        return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def spelling(plan: dict[str, Any]) -> Any:
    """Returns the function that gives the bytes that a token of the vocabulary stands for."""
    kinds = re.findall(r'"type": "(\w+)"', json.dumps([plan["pre_tokenizer"], plan["decoder"]]))
    values = {sign: value for value, sign in enumerate(byte_level_signs())}
    prefix = plan["model"].get("continuing_subword_prefix") or ""

    def byte_level(token: str) -> bytes:
        return b"".join(bytes([values[sign]]) if sign in values else sign.encode() for sign in token)

    def plain(token: str) -> bytes:
        if match := BYTE.fullmatch(token):
            return bytes.fromhex(match[1])
        return token.removeprefix(prefix).replace("\u2581", " ").encode()

    return byte_level if "ByteLevel" in kinds else plain
