"""What goes wrong with the Hugging Face hub, in one line each."""

from collections.abc import Iterator
from contextlib import contextmanager

from makelm.errors import UserError, first_line


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
