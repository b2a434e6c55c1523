"""A trained model as lm-eval wants it: what continuations cost, what whole texts cost, and what it writes.

Which tokens a question becomes is lm-eval's rule, so that scores compare with other people's: spaces at the end of a
context belong to the continuation, a context that is too long loses its beginning, a long text is cut into windows of
which each has as much before it as fits. Where a token would reach over the border of context and continuation, the
two are encoded each by itself.

B batch, T position
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from makelm import generate
from makelm.errors import UserError
from makelm.model import Skeleton
from makelm.sampling import Options
from makelm.scoring import Scorer
from makelm.tokenizer import Tokenizer

SHORTEST = 32  # tokens; rows are as long as the least of 32, 64, 128, ... and the context that has room for them
NEW_TOKENS = 256  # where a task does not say how many, as in lm-eval
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # what it may call that


@dataclass(frozen=True)
class Window:
    """Tokens in a row, of which the last `count` are scored."""

    tokens: list[int]
    count: int


class TaskModel(LM):
    """A trained model with its tokenizer.

    Rows are as long as their own tokens ask for and always as many, so no answer depends on what else is asked.
    """

    def __init__(self, scorer: Scorer, encoding: Tokenizer):
        super().__init__()
        self.scorer, self.encoding = scorer, encoding
        self.encode = lru_cache(1 << 16)(encoding.encode)  # the choices of a question share a context
        # where a tokenizer has a token that begins documents, every text begins with it
        self.begin = [] if encoding.begin_of_text is None else [encoding.begin_of_text]

    # ---- what lm-eval asks

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Returns for each (context, continuation) the latter's log-probability and whether it is the likeliest."""
        return self.score([self.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Returns the log-probability of each whole text."""
        return [logprob for logprob, _ in self.score([self.pair("", *request.args) for request in requests])]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Returns what the model writes after each context, up to the first of the strings to stop at."""
        wanted = [writing(request.args[1], number) for number, request in enumerate(requests)]
        prompts = [self.prompt(request.args[0], one) for request, one in zip(requests, wanted, strict=True)]
        return [written.text for written in generate.generate(self.engine, prompts, wanted)]

    @cached_property
    def engine(self) -> generate.Engine:
        """What writes, in as many slots as rows are scored at a time."""
        trained, scorer = self.scorer.trained, self.scorer
        skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text, scorer.mesh)
        end, readers = self.encoding.end_of_text, min(scorer.rows, generate.READERS)
        return generate.Engine(skeleton, scorer.parameters, self.encoding.tokens, end, scorer.rows, readers=readers)

    # ---- from texts to tokens

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Returns the ids of both. Before a text without context stands what stands before documents."""
        if not context:
            first, ids = self.encoding.first, self.encode(continuation)
            # where nothing stands before documents, nothing is known of the first token
            return ([first], ids) if first is not None else (ids[:1], ids[1:])
        spaces = context[len(context.rstrip()) :]
        context, continuation = context.rstrip(), spaces + continuation
        if not context:
            return self.pair("", continuation)
        before, whole = self.encode(context), self.encode(context + continuation)
        fits = whole[: len(before)] == before
        return [*self.begin, *before], whole[len(before) :] if fits else self.encode(continuation)

    def prompt(self, context: str, wanted: Options) -> list[int]:
        """Returns the ids of a context, its end where not all of it and what is to be written fit."""
        room = self.scorer.context - wanted.max_new_tokens
        if room < 1:
            raise UserError(
                f"a task wants up to {wanted.max_new_tokens} tokens written, the model's context has"
                f" {self.scorer.context}; set generation_kwargs.max_gen_toks in the task's YAML to less"
            )
        ids = [*self.begin, *self.encode(context)] if context else [self.encoding.first]
        if ids == [None]:
            raise UserError("a task has an empty context, and this tokenizer has no token to begin with")
        return ids[-room:]

    # ---- rows of fixed shapes

    def bucket(self, length: int) -> int:
        """Returns how many tokens a row has that has room for so many."""
        return min(generate.power(length, SHORTEST), self.scorer.context)

    def batches(self, kinds: Sequence[Hashable]) -> Iterator[list[int]]:
        """Yields the numbers of rows of one kind, as many as go into a forward pass, the longest first."""
        by_kind: dict[Hashable, list[int]] = {}
        for number, kind in enumerate(kinds):
            by_kind.setdefault(kind, []).append(number)
        for kind in sorted(by_kind, reverse=True):  # what takes most memory is tried first
            numbers = by_kind[kind]
            yield from (numbers[start : start + self.scorer.rows] for start in range(0, len(numbers), self.scorer.rows))

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Returns of each (ids before, ids) the log-probability of the latter and whether all are the likeliest."""
        numbered = [
            (number, window) for number, pair in enumerate(pairs) for window in windows(*pair, self.scorer.context)
        ]
        logprobs, greedy = [0.0] * len(pairs), [True] * len(pairs)
        kinds = [self.bucket(len(window.tokens) - 1) for _, window in numbered]
        for rows in self.batches(kinds):
            inputs_BT, targets_BT = np.zeros((2, self.scorer.rows, kinds[rows[0]]), np.int32)
            for place, row in enumerate(rows):
                tokens = numbered[row][1].tokens
                inputs_BT[place, : len(tokens) - 1], targets_BT[place, : len(tokens) - 1] = tokens[:-1], tokens[1:]
            losses_BT, greedy_BT = self.scorer(inputs_BT, targets_BT)
            for place, row in enumerate(rows):
                number, window = numbered[row]
                scored = slice(len(window.tokens) - 1 - window.count, len(window.tokens) - 1)
                logprobs[number] -= float(losses_BT[place, scored].sum())
                greedy[number] &= bool(greedy_BT[place, scored].all())
        return list(zip(logprobs, greedy, strict=True))


def windows(before: list[int], ids: list[int], context: int) -> Iterator[Window]:
    """Yields ids in windows of at most a context, each after as much of what stands before it as the context has."""
    tokens = before + ids
    for first in range(0, len(ids), context):
        count = min(context, len(ids) - first)
        end = len(before) + first + count
        yield Window(tokens[max(0, end - context - 1) : end], count)


def writing(asked: Mapping[str, Any], seed: int) -> Options:
    """Returns how a task wants text to be written, from its generation_kwargs and lm-eval's names for the same."""
    until, temperature = asked.get("until") or (), float(asked.get("temperature") or 0)
    if not asked.get("do_sample", temperature > 0):
        temperature = 0.0
    new_tokens = next((asked[name] for name in LENGTHS if asked.get(name)), NEW_TOKENS)
    return Options(
        max_new_tokens=int(new_tokens),
        temperature=temperature,
        top_k=asked.get("top_k") or None,
        top_p=asked.get("top_p"),
        seed=seed,
        stop=(until,) if isinstance(until, str) else tuple(filter(None, until)),
    )
