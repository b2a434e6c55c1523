"""Cleaning of one document at a time: its text is repaired and normalised, or it is dropped for a reason.

Every step is counted: documents and bytes that came in and went out, and why documents were dropped.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial

import numpy as np

from makelm import pool, words
from makelm.config_corpus import Clean
from makelm.documents import BATCH, Document, batches, byte_length

DUPLICATE_NGRAM = 5  # words, the shortest of those that Gopher's rules count (Rae et al. 2021)
TOP_NGRAM = 2


class Step:
    """What went through one step of cleaning."""

    def __init__(self, name: str):
        self.name = name
        self.counts = Counter()
        self.dropped: dict[str, Counter] = {}

    def keep(self, documents: int, size: int) -> None:
        """Counts documents that stay as they are, of so many bytes together."""
        self.counts.update(documents_in=documents, bytes_in=size, documents_out=documents, bytes_out=size)

    def change(self, before: int, after: int, changed: bool) -> None:
        """Counts a document that had `before` bytes and now has `after`."""
        self.counts.update(documents_in=1, bytes_in=before, documents_out=1, bytes_out=after, changed=int(changed))

    def drop(self, reason: str, documents: int, size: int) -> None:
        """Counts documents that are dropped, of so many bytes together."""
        self.counts.update(documents_in=documents, bytes_in=size)
        if documents:
            self.dropped.setdefault(reason, Counter()).update(documents=documents, bytes=size)

    def add(self, other: "Step") -> None:
        """Adds what went through the same step elsewhere."""
        self.counts.update(other.counts)
        for reason, counts in other.dropped.items():
            self.dropped.setdefault(reason, Counter()).update(counts)

    def facts(self) -> dict:
        """Returns the counts, as a manifest holds them."""
        names = ("documents_in", "bytes_in", "documents_out", "bytes_out", "changed")
        counts = {name: self.counts[name] for name in names}
        return {"step": self.name, **counts, "dropped": {name: dict(one) for name, one in self.dropped.items()}}


class Cleaner:
    """The steps that look at one document alone, in their order."""

    def __init__(self, clean: Clean):
        self.filters = {key: value for key, value in clean if key not in NO_FILTERS and value is not None}
        self.changes = {}
        if clean.ftfy:
            self.changes["ftfy"] = repairer(clean.ftfy)
        if clean.normalize:
            self.changes["normalize"] = partial(unicodedata.normalize, clean.normalize)
        self.steps = [Step(name) for name in (*self.changes, *(["filter"] if self.filters else []))]

    def clean(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yields the documents that stay, as they then are."""
        for document in documents:
            text, size = document.text, byte_length(document.text)
            for step, change in zip(self.steps, self.changes.values(), strict=False):
                changed = change(text)
                before, size = size, byte_length(changed)
                step.change(before, size, changed != text)
                text = changed
            if self.filters:
                if reason := self.reason(text, size):
                    self.steps[-1].drop(reason, 1, size)
                    continue
                self.steps[-1].keep(1, size)
            yield Document(document.id, text)

    def reason(self, text: str, size: int) -> str | None:
        """Returns the key of the first filter that a text of so many bytes does not pass."""
        return next((key for key, bound in self.filters.items() if FILTERS[key](text, size, bound)), None)


def clean_documents(documents: Iterable[Document], clean: Clean | None, cores: int) -> tuple[Iterator, list[Step]]:
    """Returns (the documents that stay, in their order; the steps, whose counts are whole once all are read)."""
    cleaner = Cleaner(clean) if clean else None
    if not cleaner or not cleaner.steps:
        return iter(documents), []
    return clean_in_batches(documents, clean, cleaner.steps, cores), cleaner.steps


def clean_in_batches(documents: Iterable[Document], clean: Clean, steps: list[Step], cores: int) -> Iterator[Document]:
    cheap = not clean.ftfy and not any(getattr(clean, key) is not None for key in BY_WORDS)
    for kept, counted in pool.in_order(partial(clean_batch, clean), batches(documents, BATCH), 1 if cheap else cores):
        for step, other in zip(steps, counted, strict=True):
            step.add(other)
        yield from kept


def clean_batch(clean: Clean, documents: list[Document]) -> tuple[list[Document], list[Step]]:
    """Returns the documents that stay, and what was counted."""
    cleaner = Cleaner(clean)
    return list(cleaner.clean(documents)), cleaner.steps


# ---- repair


def repairer(how: str) -> Callable[[str], str]:
    """Returns what ftfy makes of a text: `repair` undoes what damaged it, `all` straightens quotes and the like too."""
    import ftfy  # only those who choose it depend on its version

    if how == "all":
        return partial(ftfy.fix_text, config=ftfy.TextFixerConfig(normalization=None, explain=False))
    settings = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        normalization=None,
        explain=False,
    )
    return partial(ftfy.fix_text, config=settings)


# ---- filters: each says whether a text of so many bytes is beyond its bound


@lru_cache(maxsize=1)
def words_of(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words of one text, which the filters after the first need not find again."""
    return words.words([text])


def few_words(text: str, size: int, least: int) -> bool:
    """A text of less than so many different words."""
    return np.unique(words_of(text)[0]).size < least


def repeated_lines(text: str, size: int, most: float) -> bool:
    """A larger share of the lines, blank ones aside, stood before."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return bool(lines) and 1 - len(set(lines)) / len(lines) > most


def repeated_ngrams(text: str, size: int, most: float) -> bool:
    """A larger share of five words in a row stood before."""
    found = words.ngrams(*words_of(text), DUPLICATE_NGRAM)[0]
    return bool(found.size) and 1 - np.unique(found).size / found.size > most


def frequent_ngram(text: str, size: int, most: float) -> bool:
    """Of two words in a row a larger share is the same two."""
    found = words.ngrams(*words_of(text), TOP_NGRAM)[0]
    return found.size > 1 and np.unique(found, return_counts=True)[1].max() / found.size > most


FILTERS = {
    "min_bytes": lambda text, size, least: size < least,
    "max_bytes": lambda text, size, most: size > most,
    "min_unique_words": few_words,
    "max_repeated_lines": repeated_lines,
    "max_repeated_5grams": repeated_ngrams,
    "max_top_2gram": frequent_ngram,
}
# the keys of Clean that are none
NO_FILTERS = ("ftfy", "normalize", "deduplicate", "max_contamination", "evaluation_texts")
BY_WORDS = ("min_unique_words", "max_repeated_lines", "max_repeated_5grams", "max_top_2gram")
