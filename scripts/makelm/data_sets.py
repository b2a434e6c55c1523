"""Data sets of the Hugging Face hub, or of a folder that `datasets` can load; it runs no code of theirs any more."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from makelm import files
from makelm.config_corpus import DatasetsCorpus
from makelm.documents import Document
from makelm.errors import UserError, first_line
from makelm.reading import divided, text_of

COMMIT = re.compile(r"[0-9a-f]{40}")


def open_rows(corpus: DatasetsCorpus) -> tuple[Iterator[Document], dict, int]:
    """Returns the rows of a data set, what a manifest says of it, and about how many bytes it has (0: unknown).

    Streamed, nothing of it stays; else it is downloaded whole into the cache of `datasets` (HF_HOME) and read from
    there, with HF_HUB_OFFLINE=1 too.
    """
    import datasets  # a second; only this source needs it

    datasets.disable_progress_bars()  # the stage has its own
    with explained(corpus):
        builder = datasets.load_dataset_builder(corpus.dataset, corpus.subset, revision=corpus.revision)
        check_commit(corpus, builder.hash)
        if corpus.streaming:
            rows = builder.as_streaming_dataset(split=corpus.dataset_split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=corpus.dataset_split)

    def read() -> Iterator[Document]:
        with explained(corpus):
            for number, row in enumerate(rows):
                where = f"{corpus.dataset}, row {number} of {corpus.dataset_split}"
                found = Document(f"{corpus.dataset_split}:{number}", text_of(row, corpus.text_key, where))
                yield from divided(found, corpus.text_key)

    # of a data set of the hub this is the commit; of a local folder it depends on file times
    own = files.source_files(corpus)
    facts = {"files": files.described(own)} if own else {"commit": builder.hash}
    return read(), facts, builder.info.dataset_size or 0


def check_commit(corpus: DatasetsCorpus, found: str) -> None:
    """Raises UserError where another commit was found than the one that is asked for, as offline it can be."""
    if corpus.revision and COMMIT.fullmatch(corpus.revision) and found != corpus.revision:
        raise UserError(f"corpus.revision: of {corpus.dataset} only the commit {found} is there, not {corpus.revision}")


@contextmanager
def explained(corpus: DatasetsCorpus) -> Iterator[None]:
    """Turns what `datasets` raises over a data set it cannot read into one line."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants

    only = "; with HF_HUB_OFFLINE=1 there is what streaming: false left in its cache (HF_HOME), and local folders"
    try:
        yield
    except UserError:
        raise
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        hint = only if constants.HF_HUB_OFFLINE else ""
        raise UserError(f"corpus.dataset: cannot read {corpus.dataset!r}: {first_line(error)}{hint}") from None
