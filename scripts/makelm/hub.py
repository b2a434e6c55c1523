"""The Hugging Face hub: one file of it, and what its client raises in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from makelm.errors import UserError, first_line


def fetch(
    section: str, repository: str, revision: str | None, name: str, kind: Literal["model", "dataset"] = "model"
) -> tuple[Path, str]:
    """Returns where a file of a repository stands in the hub's cache (HF_HOME), downloaded if need be, and its commit.

    Raises UserError that names the configuration's section where it cannot be had.
    """
    # half a second; only who needs the hub waits for it
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # the stage has its own
    page = f"datasets/{repository}" if kind == "dataset" else repository
    with explained(section, repository, revision, page, f"has no {name}"):
        path = Path(hf_hub_download(repository, name, repo_type=kind, revision=revision))
    return path, path.parents[len(PurePosixPath(name).parts) - 1].name  # the cache has a folder for each commit


@contextmanager
def explained(section: str, repository: str, revision: str | None, page: str, lacks: str) -> Iterator[None]:
    """Turns what the hub's client raises into one line about the keys `repository` and `revision` of a section.

    `page` is the repository's page on huggingface.co; `lacks` says what it means that a file is not there.
    """
    from huggingface_hub import errors

    where = f"{section}.repository: {repository}"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{where} is gated: accept its terms at huggingface.co/{page}, then set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{section}.revision: {repository} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{where} is not on the hub, or private; for a private one set HF_TOKEN") from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"{where} {lacks}") from None
    except errors.LocalEntryNotFoundError as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{where} is not whole in the hub's cache, and the hub is out of reach: {reason}") from None
    except (errors.HTTPError, errors.XetDownloadError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where} cannot be downloaded: {first_line(error)}") from None
