"""How much of a task's questions stands in the documents that a run was trained on, by 13-grams."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from makelm import contamination
from makelm.deduplication import KEPT
from makelm.documents import Document
from makelm.progress import Progress


def measure(
    rows: Sequence[Any],
    corpora: Mapping[Path, Mapping[str, Any]],
    scratch: Path,
    cores: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """Returns what scores.json has of it, or None where a corpus has no text.

    Each row has the texts of a question; no 13-gram reaches over two of them. `corpora` has for each folder of
    documents the facts of its manifest.
    """
    if any("contamination" not in facts for facts in corpora.values()):
        return None
    questions = [list(dict.fromkeys(texts_in(row))) for row in rows]
    texts = [Document(str(number), text) for number, question in enumerate(questions) for text in question]
    index = contamination.build(scratch / "index", texts)
    seen = contamination.Seen(index.hashes.size)
    for folder, facts in corpora.items():
        train, shards = facts["train"], facts["num_shards"]
        fates = np.full(train["documents"], KEPT, np.uint8)
        several = cores if train["bytes"] > contamination.SMALL else 1
        with progress.track(train["bytes"], "B") as bar:
            found = contamination.examine_train(folder, shards, fates, scratch / "index", None, several, bar)[1]
        seen.add(found.packed())
    return {"ngram": contamination.NGRAM, "sampled": 0.5**index.halvings} | shares(index, seen, questions)


def shares(index: contamination.Index, seen: contamination.Seen, questions: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns how many of the questions' 13-grams were seen, and of how many questions any was."""
    total = found = known = touched = 0
    for question in questions:
        own_N, counts, _ = contamination.ngrams([Document("", text) for text in question], index.halvings)
        _, places = index.find(own_N)
        hits = int(seen.kept[places].sum())
        total, found = total + int(counts.sum()), found + hits
        known, touched = known + bool(counts.sum()), touched + bool(hits)
    return {
        "documents": len(questions),
        "long_documents": known,
        "ngrams": total,
        "share": found / total if total else 0.0,
        "documents_with_any": touched,
    }


def texts_in(value: Any) -> Iterable[str]:
    """Yields the texts in a question: those of its fields, and in lists and maps among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(each)
