"""What is asked of a served model: OpenAI's completions request, checked, as prompts and options of the generator."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from makelm import prompts
from makelm.config_asking import MinP, RepetitionPenalty, Temperature, TopP
from makelm.config_types import Section, did_you_mean
from makelm.errors import UserError
from makelm.generate import Options
from makelm.model import Skeleton
from makelm.serving_errors import ApiError
from makelm.text_stream import TokenTexts
from makelm.tokenizer import Tokenizer

ALTERNATIVES = 5  # beside each token, at most
CHOICES = 128  # of each prompt
STOPS, STOP_LENGTH = 16, 128  # strings, characters
SHAPES = {
    "prompt": "a string, a list of strings, a list of token ids or a list of such lists",
    "stop": f"a string or a list of at most {STOPS} strings, each of 1 to {STOP_LENGTH} characters",
}
# what a key may say without asking for anything
NOTHING = (None, 0, "", {})
UNSUPPORTED = ("suffix", "logit_bias", "presence_penalty", "frequency_penalty")

T = TypeVar("T")
Some = Annotated[list[T], Field(min_length=1, fail_fast=True)]  # others wait while a request is checked
Id = Annotated[int, Field(ge=0)]
Stop = Annotated[str, Field(min_length=1, max_length=STOP_LENGTH)]


class StreamOptions(Section):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # random filling: there is none


class Body(Section):
    """The request as it comes; null is the default. Keys from top_k to ignore_eos are not OpenAI's."""

    model: str | None = None
    prompt: str | Some[str] | Some[Id] | Some[Some[Id]] | None = None  # null: the beginning of a document
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None  # its last ones count; -1: all there is room for
    ignore_eos: bool | None = None  # the end of a document does not end the text
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=ALTERNATIVES)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    best_of: int | None = None
    suffix: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    user: str | None = None  # says who asks; nothing is done with it


@dataclass(frozen=True)
class Asked:
    """Texts to write, n for each prompt, and what to say of them."""

    prompts: list[list[int]]
    options: list[Options]  # of each choice of a prompt
    logprobs: int | None
    scored: bool  # whether it is said what the prompts' tokens cost
    echoes: list[str]  # what the text of each prompt's choices begins with, where that is not scored
    shown: list[list[tuple[int, str]] | None]  # of each prompt that is scored: ids and their texts
    stream: bool
    usage: bool  # whether a stream ends with how many tokens there were


@dataclass(frozen=True)
class Limits:
    """What a server grants."""

    max_tokens: int  # of a text
    queue: int  # texts that wait
    body: int  # bytes of a request
    seconds: float  # until a request is answered


def parse(body: bytes) -> Body:
    """Returns a request. Raises ApiError where it is none."""
    try:
        content = json.loads(body.decode(), parse_constant=refuse)
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body should be a JSON object")
    try:
        found = Body.model_validate(content)
    except ValidationError as error:
        raise explained(error.errors()[0]) from None
    check(found)
    return found


def refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def explained(error: dict) -> ApiError:
    """Returns what one of pydantic's errors means."""
    if error["type"] == "unknown":
        key = str(error["ctx"]["key"])
        near = did_you_mean(key, error["ctx"]["known"])
        return ApiError(
            400, f"unknown key {key!r}{near}", ".".join([*map(str, error["loc"]), key]), "unknown_parameter"
        )
    param = str(error["loc"][0])
    what = f"should be {SHAPES[param]}" if param in SHAPES else error["msg"][:1].lower() + error["msg"][1:]
    return ApiError(400, f"{param}: {what}", param, "invalid_value")


def check(body: Body) -> None:
    """Raises ApiError where keys ask for what is not done here, or do not go together."""
    for name in UNSUPPORTED:
        if getattr(body, name) not in NOTHING:
            raise ApiError(400, f"{name} is not supported", name, "unsupported_parameter")
    if body.best_of not in (None, body.n or 1):
        raise ApiError(
            400, "best_of is not supported: n texts are written and all returned", "best_of", "unsupported_parameter"
        )
    if body.stream_options and not body.stream:
        raise ApiError(400, "stream_options is for stream: true only", "stream_options", "invalid_value")
    if body.truncate_prompt_tokens == 0:
        message = "truncate_prompt_tokens: should be -1 or at least 1"
        raise ApiError(400, message, "truncate_prompt_tokens", "invalid_value")


def asked(body: Body, encoding: Tokenizer, skeleton: Skeleton, limits: Limits) -> Asked:
    """Returns what a request wants of this model. Raises ApiError where it cannot be had."""
    if (body.max_tokens or 0) > limits.max_tokens:
        raise ApiError(400, f"max_tokens: at most {limits.max_tokens:,} here", "max_tokens", "invalid_value")
    options = options_of(body, min(16, limits.max_tokens))
    new, last = options[0].max_new_tokens, body.truncate_prompt_tokens
    given = listed(body.prompt)
    texts = len(given) * len(options)
    if texts > limits.queue:
        param = "prompt" if len(given) > limits.queue else "n"
        message = f"{param}: {texts:,} texts at once (prompts times n); at most {limits.queue:,} here"
        raise ApiError(400, message, param, "invalid_value")
    found = [ids_of(prompt, encoding, skeleton, new, last) for prompt in given]
    usage = bool(body.stream_options and body.stream_options.include_usage)
    scored, echoes, shown = bool(body.echo) and body.logprobs is not None, [""] * len(found), [None] * len(found)
    if scored:
        shown = [shown_of(*each, encoding) for each in zip(given, found, strict=True)]
    elif body.echo:
        echoes = [prompt if isinstance(prompt, str) else encoding.decode(prompt) for prompt in given]
    return Asked(found, options, body.logprobs, scored, echoes, shown, bool(body.stream), usage)


def options_of(body: Body, usual: int) -> list[Options]:
    """Returns the options of each choice of a prompt; the seeds follow each other. `usual`: tokens, if not said."""
    seed = int.from_bytes(os.urandom(8), "little") if body.seed is None else body.seed
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [
        Options(
            max_new_tokens=usual if body.max_tokens is None else body.max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_k=None if body.top_k in (-1, 0) else body.top_k,
            top_p=None if body.top_p == 1 else body.top_p,
            min_p=body.min_p or None,
            repetition_penalty=None if body.repetition_penalty == 1 else body.repetition_penalty,
            seed=(seed + number) % 2**64,
            stop=tuple(stop),
            logprobs=body.logprobs or 0,
            ends=not body.ignore_eos,
        )
        for number in range(body.n or 1)
    ]


def listed(prompt: str | list | None) -> Sequence[str | list[int]]:
    """Returns the prompts of any of the shapes."""
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    return [prompt] if prompt and isinstance(prompt[0], int) else prompt


def ids_of(prompt: str | list[int], encoding: Tokenizer, skeleton: Skeleton, new: int, last: int | None) -> list[int]:
    """Returns the ids of a prompt, or its last ones; a text begins a document.

    Raises ApiError where they cannot be written on from.
    """
    context, learned = skeleton.shape.context_length, skeleton.shape.positions.kind == "learned"
    if isinstance(prompt, str):
        # so long a text need not be cut into tokens to know
        longest = context * max(1, int(encoding.lengths.max()))
        if last is None and len(prompt.encode(errors="replace")) > longest:
            raise too_long("more tokens than that", context)
        try:
            ids = [*prompts.before(encoding), *encoding.encode(prompt[-longest:])]
        except UserError as error:
            raise ApiError(400, f"prompt: {error}", "prompt", "invalid_value") from None
    else:
        ids = prompt
        if any(token >= skeleton.vocab_size for token in ids):
            raise ApiError(400, f"prompt: token ids end at {skeleton.vocab_size - 1}", "prompt", "invalid_value")
    if last is not None:
        ids = ids[-(max(1, context - new if learned else context) if last == -1 else last) :]
    if not ids:
        raise ApiError(400, "prompt: there is no token to write on from", "prompt", "invalid_value")
    if len(ids) > context:
        raise too_long(f"{len(ids):,} tokens", context)
    if learned and len(ids) + new > context:
        raise too_long(f"{len(ids):,} tokens and max_tokens are {new:,}", context)
    return ids


def shown_of(prompt: str | list[int], ids: list[int], encoding: Tokenizer) -> list[tuple[int, str]]:
    """Returns the ids of a prompt and their texts, without what the server itself put before a text."""
    if isinstance(prompt, str) and ids[0] == encoding.first:  # no text becomes a special token
        ids = ids[1:]
    return list(zip(ids, TokenTexts(encoding.tokens).take(ids, encoding.decode(ids), last=True), strict=True))


def too_long(what: str, context: int) -> ApiError:
    message = f"this model's context is {context:,} tokens, but the prompt has {what}"
    return ApiError(400, message, "prompt", "context_length_exceeded")
