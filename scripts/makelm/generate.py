"""Lets a model write: any number of texts in a fixed number of slots, several tokens of all of them at a time.

A prompt but its last token is read as in training and goes into a slot's part of the cache; then each step writes a
chunk of tokens for all slots in one dispatch. A slot that is free takes the next prompt while the others go on. Shapes
are few: prompts are filled up to powers of two, and of the cache 256, 1024, 4096, ... positions are looked at.

Prompts that are filled up to the same length are read together, an engine's number of them; where there are fewer,
rows that belong to no slot take the place of the rest. So which ones are read together changes no bit of a text.

B slots, R rows read at once, P positions read, C chunk, A alternatives
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

import jax
import numpy as np

from makelm import decoding, sampling, sharding
from makelm.errors import UserError
from makelm.model import Parameters, Skeleton
from makelm.rows import empty_rows, first_row, take_in, write
from makelm.sampling import Needs, Options
from makelm.text_stream import TextStream

SLOTS = 32  # more prompts wait for a free one
READERS = 8  # prompts read at once where many come; more make it no faster on a CPU
CHUNK = 16  # tokens between two looks at what was written
LEAST_READ, LEAST_LOOKED = 16, 256  # positions; fewer are filled up

FinishReason = Literal["end_of_text", "stop", "length"]
Alternatives = tuple[tuple[int, float], ...]  # the likeliest ids with their log-probabilities
NOT_FINITE = "the model's logits are not finite; train it again with lower learning rates"


@dataclass(frozen=True)
class Piece:
    """What came to one text in a step, as far as it is sure: a stop string may still cut what is held back."""

    slot: int
    ids: list[int]
    text: str
    logprobs: list[float]  # of the ids, in nats, as the model gives them, before any option
    alternatives: list[Alternatives]
    finish_reason: FinishReason | None  # None: it goes on


@dataclass(frozen=True)
class Written:
    """A whole text. The end-of-text token is not in it, nor are tokens of the stop string that ended it."""

    ids: list[int]
    text: str
    logprobs: list[float]
    alternatives: list[Alternatives]
    finish_reason: FinishReason


@dataclass
class Slot:
    """What the host knows of a text that is being written."""

    options: Options
    length: int  # positions in the cache
    stream: TextStream
    random: np.random.Generator  # its own, so that what is drawn does not depend on the neighbours
    written: int = 0  # tokens
    ids: list[int] = field(default_factory=list)  # those not given yet, and what belongs to them
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)

    def give(self, number: int, reason: FinishReason | None) -> Piece:
        """Returns what is sure now and was not given before."""
        text, count = self.stream.take(last=reason is not None)
        given = []
        for own in (self.ids, self.logprobs, self.alternatives):
            given.append(own[:count])
            del own[:count]
        return Piece(number, given[0], text, given[1], given[2], reason)


@dataclass
class Speed:
    """Tokens read and written, and the seconds that took; what was compiled meanwhile apart."""

    read: int = 0
    reading: float = 0.0
    written: int = 0
    writing: float = 0.0
    compiling: float = 0.0

    def measured(self) -> dict[str, float | int | None]:
        """Returns what timings.jsonl has; a rate is null where all was spent on compiling."""
        rates = [
            round(tokens / seconds, 1) if tokens else None
            for tokens, seconds in ((self.read, self.reading), (self.written, self.writing))
        ]
        return {
            "prefill_tokens_per_second": rates[0],
            "decode_tokens_per_second": rates[1],
            "compile_seconds": round(self.compiling, 3),
            "seconds": round(self.reading + self.writing + self.compiling, 3),
        }


class Engine:
    """A model with slots for texts, each with options of its own."""

    def __init__(
        self,
        skeleton: Skeleton,
        parameters: Parameters,
        tokens: Sequence[bytes],
        end_of_text: int | None,
        slots: int = SLOTS,
        length: int | None = None,
        chunk: int = CHUNK,
        readers: int = 1,
    ):
        """`tokens` are the bytes of each id; `length` are the positions a text may have, at most (and by default) the
        context; `readers` are the rows of each reading, used or not. Slots and readers become so many more that
        devices share them evenly.
        """
        self.skeleton, self.tokens, self.end_of_text, self.chunk = skeleton, tokens, end_of_text, chunk
        groups = sharding.parts(skeleton.mesh, *decoding.ROWS)
        self.context = skeleton.shape.context_length
        self.length = self.context if length is None else min(length, self.context)
        self.kept = max(self.length, chunk)  # there is room for all tokens of a chunk
        self.parameters = decoding.prepare(skeleton, parameters)
        batch, self.readers = (-(-number // groups) * groups for number in (slots, readers))
        self.cache = decoding.empty_cache(skeleton, batch, self.kept)
        self.rows = empty_rows(skeleton, batch)
        self.slots: list[Slot | None] = [None] * batch
        self.speed, self.compiled = Speed(), set()

    @property
    def free(self) -> list[int]:
        """Returns the slots that no text is in."""
        return [number for number, slot in enumerate(self.slots) if slot is None]

    def check(self, prompt: Sequence[int], options: Options) -> None:
        """Raises UserError where a text cannot be written."""
        total = len(prompt) + options.max_new_tokens
        if not prompt:
            raise UserError("a prompt needs at least one token: this tokenizer has none that begins a text")
        if self.skeleton.shape.positions.kind == "learned" and total > self.context:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and {options.max_new_tokens} new ones are more than the"
                f" {self.context} positions this model has learned; shorten the prompt or lower max_new_tokens"
            )
        assert self.length == self.context or total <= self.length, f"{total} tokens in slots of {self.length}"
        assert all(options.stop), "an empty stop string would end every text"

    def admit(self, prompt: Sequence[int], options: Options) -> int:
        """Takes a prompt into a free slot and returns its number. Raises UserError as `check` does."""
        return self.admit_all([(prompt, options)])[0]

    def admit_all(self, texts: Sequence[tuple[Sequence[int], Options]]) -> list[int]:
        """Takes prompts into as many free slots and returns their numbers.

        Of a prompt longer than the context the last context_length tokens count. Raises UserError as `check` does, and
        then takes none.
        """
        for text in texts:
            self.check(*text)
        slots, waiting = self.free[: len(texts)], {}
        assert len(slots) == len(texts), f"{len(texts)} prompts for {len(slots)} free slots"
        for slot, (prompt, options) in zip(slots, texts, strict=True):
            waiting.setdefault(self.read_length(prompt), []).append((slot, prompt, options))
        for length, alike in waiting.items():
            for first in range(0, len(alike), self.readers):
                self.read(length, alike[first : first + self.readers])
        return slots

    def read_length(self, prompt: Sequence[int]) -> int:
        """Returns the positions that a prompt is filled up to when it is read: all but its last token."""
        return min(power(len(prompt) - 1, LEAST_READ), self.length)

    def read(self, length: int, texts: list[tuple[int, Sequence[int], Options]]) -> None:
        """Reads prompts of slots, at most as many as a reading has rows, each filled up to the same length."""
        if new := length not in self.compiled:
            self.finish_reading()  # it has no part in what compiling takes
        started, tokens = time.monotonic(), 0
        tokens_RP = np.zeros((self.readers, length), np.int32)
        slot_R = np.full(self.readers, len(self.slots), np.int32)  # no slot: that row is left out
        first = []
        for row, (slot, prompt, options) in enumerate(texts):
            prompt, seen = list(prompt[-self.context :]), prompt
            tokens_RP[row, : len(prompt) - 1] = prompt[:-1]
            slot_R[row] = slot
            first.append(first_row(self.skeleton.vocab_size, seen, prompt, self.begin(prompt), options))
            stream, random = TextStream(self.tokens, options.stop), np.random.Generator(np.random.Philox(options.seed))
            self.slots[slot] = Slot(options, len(prompt) - 1, stream, random)
            tokens += len(prompt) - 1
        first += first[:1] * (self.readers - len(first))
        rows = jax.tree.map(lambda *each: np.stack(each), *first)
        self.cache, self.rows = take_in(self.skeleton, self.parameters, self.cache, self.rows, slot_R, tokens_RP, rows)
        if new:
            jax.block_until_ready(self.rows)
        if self.took(started, length):  # what it still takes is counted in the next step
            self.speed.read += tokens
            self.speed.reading += time.monotonic() - started

    def finish_reading(self) -> None:
        """Waits until what was taken in has been read."""
        started = time.monotonic()
        jax.block_until_ready(self.rows)
        self.speed.reading += time.monotonic() - started

    def begin(self, prompt: list[int]) -> int:
        """Returns where the document begins that a prompt ends in, as far as the model makes a difference."""
        if not self.skeleton.shape.mask_documents:
            return 0
        return max((place for place, token in enumerate(prompt) if token == self.end_of_text), default=0)

    def release(self, slot: int) -> None:
        """Frees a slot, whatever is being written there."""
        self.slots[slot] = None

    def step(self) -> list[Piece]:
        """Writes a chunk of tokens for all texts and returns what came to each; a text that ends leaves its slot."""
        live = {number: slot for number, slot in enumerate(self.slots) if slot is not None}
        if not live:
            return []
        self.finish_reading()
        started = time.monotonic()
        how = *self.looks(list(live.values())), self.end_of_text
        live_B = np.array([slot is not None for slot in self.slots])
        u_CB = np.zeros((self.chunk, len(live_B)), np.float32)
        for number, slot in live.items():
            u_CB[:, number] = slot.random.random(self.chunk, np.float32)
        self.cache, self.rows, found = write(self.skeleton, how, self.parameters, self.cache, self.rows, live_B, u_CB)
        ids_BC, logprobs_BC, others_BCA, values_BCA = (each.tolist() for each in jax.device_get(found))
        before, counts = self.speed.written, self.took(started, how)
        pieces = [self.read_off(n, ids_BC[n], logprobs_BC[n], others_BCA[n], values_BCA[n]) for n in live]
        if counts:
            self.speed.writing += time.monotonic() - started
        else:
            self.speed.written = before
        return pieces

    def looks(self, live: list[Slot]) -> tuple[int, int, Needs]:
        """Returns how a step is compiled: positions looked at, tokens of a chunk, and what its rows can ask for."""
        width = min(power(max(slot.length for slot in live), LEAST_LOOKED, 4), self.kept)
        return width, self.chunk, sampling.needs([slot.options for slot in live], self.skeleton.vocab_size)

    def took(self, started: float, shape: Hashable) -> bool:
        """Returns whether a call's time counts: the first one of a shape is spent on compiling."""
        if shape in self.compiled:
            return True
        self.compiled.add(shape)
        self.speed.compiling += time.monotonic() - started
        return False

    def read_off(self, number: int, ids_C: list, logprobs_C: list, others_CA: list, values_CA: list) -> Piece:
        """Returns what came to a slot's text, and frees the slot where that ends it."""
        slot, reason = self.slots[number], None
        for token, logprob, others, values in zip(ids_C, logprobs_C, others_CA, values_CA, strict=True):
            if not isfinite(logprob):
                raise UserError(NOT_FINITE)
            slot.length += 1
            slot.written += 1
            self.speed.written += 1
            if token == self.end_of_text and slot.options.ends:
                reason = "end_of_text"
                break
            slot.ids.append(token)
            slot.logprobs.append(logprob)
            slot.alternatives.append(tuple(zip(others, values, strict=True))[: slot.options.logprobs])
            if slot.stream.feed(token):
                reason = "stop"
                break
            if slot.written == slot.options.max_new_tokens:
                reason = "length"
                break
        if reason:
            self.release(number)
        return slot.give(number, reason)


def generate(engine: Engine, prompts: Sequence[Sequence[int]], options: Sequence[Options]) -> list[Written]:
    """Returns what the model writes after each prompt (ids, at least one). Raises UserError as Engine.check does.

    What it writes after one depends neither on the others nor on their order, up to rounding where other shapes are
    compiled for them.
    """
    texts = list(zip(prompts, options, strict=True))
    for text in texts:
        engine.check(*text)
    # the last ones are taken first: long ones, and beside each other those that can be read together
    waiting = sorted(range(len(texts)), key=lambda number: engine.read_length(prompts[number]))
    pieces: list[list[Piece]] = [[] for _ in prompts]
    places: dict[int, int] = {}
    while waiting or places:
        count = min(len(waiting), len(engine.free))
        # a reading takes as long for one prompt as for all of its rows: it waits until half of them are used
        if 2 * count >= engine.readers or count == len(waiting) or not places:
            taken = [waiting.pop() for _ in range(count)]
            places |= zip(engine.admit_all([texts[number] for number in taken]), taken, strict=True)
        for piece in engine.step():
            pieces[places[piece.slot]].append(piece)
            if piece.finish_reason:
                del places[piece.slot]
    return [join(each) for each in pieces]


def join(pieces: list[Piece]) -> Written:
    """Returns the text that pieces make up."""

    def all_of(name: str) -> list:
        return [item for piece in pieces for item in getattr(piece, name)]

    text = "".join(all_of("text"))
    return Written(all_of("ids"), text, all_of("logprobs"), all_of("alternatives"), pieces[-1].finish_reason)


def slot_length(prompts: Sequence[Sequence[int]], options: Sequence[Options], context: int) -> int:
    """Returns the positions that slots need for these texts; of few sizes, since each is compiled for itself."""
    longest = max(len(prompt) + each.max_new_tokens for prompt, each in zip(prompts, options, strict=True))
    return min(power(longest, LEAST_LOOKED // 2), context)


def power(number: int, least: int, base: int = 2) -> int:
    """Returns the first of least, least x base, least x base x base, ... that is no less than a number."""
    while least < number:
        least *= base
    return least
