"""What clients are told of texts: OpenAI's completions, whole or in chunks."""

import json
import time
from collections.abc import Sequence

from makelm.generate import Piece
from makelm.text_stream import TokenTexts
from makelm.tokenizer import Tokenizer

LOWEST = -9999.0  # in place of -inf, which is no JSON
REASONS = {"end_of_text": "stop", "stop": "stop", "length": "length", None: None}


def encoded(content: dict) -> bytes:
    """Returns JSON; half of a surrogate pair, which a request may hold, stays as it is escaped there."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def event(content: dict) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + encoded(content) + b"\n\n"


END = b"data: [DONE]\n\n"


class Names:
    """What tokens are called: their text, or the bytes where these are no whole characters, or a special one's name."""

    def __init__(self, encoding: Tokenizer):
        self.tokens = encoding.tokens
        self.special = {token: name for name, token in encoding.special_tokens.items()}

    def __call__(self, token: int) -> str:
        if token in self.special:
            return self.special[token]
        try:
            return self.tokens[token].decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.tokens[token])


class Choice:
    """One text as its client gets it: all of it, or part after part."""

    def __init__(
        self, index: int, names: Names, logprobs: bool, begins: str, prompt: list[tuple[int, str]] | None = None
    ):
        """`begins` is what stands before the text that is written; where the `prompt` is scored, its ids and their
        texts do.
        """
        self.index, self.names, self.with_logprobs, self.begins = index, names, logprobs, begins
        self.prompt = prompt  # until its scores have come, which are the first piece
        self.texts = TokenTexts(names.tokens)
        self.waiting: list[tuple] = []  # tokens that are not given yet: id, log-probability, alternatives
        self.count = self.offset = 0  # tokens, characters of the text

    def part(self, pieces: Sequence[Piece]) -> dict | None:
        """Returns what pieces add to it, or None where that is nothing."""
        reason, scored, begun = pieces[-1].finish_reason, [], []
        if self.prompt is not None:
            scored, begun = self.take_prompt(pieces[0])
            pieces = pieces[1:]
        ids = [token for piece in pieces for token in piece.ids]
        self.count += len(ids)
        for piece in pieces:
            self.waiting += zip(piece.ids, piece.logprobs, piece.alternatives, strict=True)
        texts = self.texts.take(ids, "".join(piece.text for piece in pieces), last=reason is not None)
        given, self.waiting = scored + self.waiting[: len(texts)], self.waiting[len(texts) :]
        texts = begun + texts
        if not texts and reason is None:
            return None
        begins, self.begins = self.begins, ""
        return {
            "index": self.index,
            "text": begins + "".join(texts),
            "logprobs": self.describe(given, texts) if self.with_logprobs else None,
            "finish_reason": REASONS[reason],
        }

    def take_prompt(self, scores: Piece) -> tuple[list[tuple], list[str]]:
        """Returns the prompt's tokens as `waiting` has them, and their texts."""
        first = len(scores.logprobs) - len(self.prompt)  # what the server itself put there is not shown
        ids, texts = [token for token, _ in self.prompt], [text for _, text in self.prompt]
        self.prompt = None
        return list(zip(ids, scores.logprobs[first:], scores.alternatives[first:], strict=True)), texts

    def describe(self, tokens: list[tuple], texts: list[str]) -> dict:
        """Returns the log-probabilities of tokens and their alternatives, null where nothing stands before a token.

        Offsets count from the text's beginning.
        """
        offsets, logprobs, likely = [], [], []
        for (token, logprob, alternatives), text in zip(tokens, texts, strict=True):
            offsets.append(self.offset)
            self.offset += len(text)
            if logprob is None:
                logprobs.append(None)
                likely.append(None)
                continue
            others: dict[str, float] = {}
            for other, value in (*alternatives, (token, logprob)):
                others.setdefault(self.names(other), max(value, LOWEST))
            logprobs.append(max(logprob, LOWEST))
            likely.append(others)
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": likely, "text_offset": offsets}


class Completion:
    """All texts of one request."""

    def __init__(self, name: str, model: str, choices: list[Choice], read: int, usage: bool):
        """`read` are the tokens of the prompts; `usage`: whether a stream ends with how many tokens there were."""
        self.choices, self.read = choices, read
        self.head = {"id": name, "object": "text_completion", "created": int(time.time()), "model": model}
        self.head |= {"usage": None} if usage else {}

    def parts(self, arrived: list[tuple[int, Piece]]) -> list[dict]:
        """Returns what pieces, each with the number of its text, add to the choices."""
        own: dict[int, list[Piece]] = {}
        for number, piece in arrived:
            own.setdefault(number, []).append(piece)
        found = (self.choices[number].part(pieces) for number, pieces in own.items())
        return [part for part in found if part]

    @property
    def usage(self) -> dict:
        written = sum(choice.count for choice in self.choices)
        return {"prompt_tokens": self.read, "completion_tokens": written, "total_tokens": self.read + written}

    def chunk(self, parts: list[dict]) -> bytes:
        """Returns parts of choices as an event."""
        return event(self.head | {"choices": parts})

    def last(self) -> bytes:
        """Returns the event that says how many tokens there were."""
        return event(self.head | {"choices": [], "usage": self.usage})

    def whole(self, arrived: list[tuple[int, Piece]]) -> bytes:
        """Returns the completion that all pieces make up."""
        choices = sorted(self.parts(arrived), key=lambda part: part["index"])
        return encoded(self.head | {"choices": choices, "usage": self.usage})
