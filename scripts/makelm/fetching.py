"""Files from the network: fetched in as many goes as it takes, and known by their sha256 alone.

What has come of a file stands under its sha256, with what the server calls this version of it beside it. So the next
run goes on where one was killed, and whatever a server did on the way, the sum says whether the file is right.
"""

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from makelm import files
from makelm.errors import UserError, first_line
from makelm.manifest import file_sha256
from makelm.progress import Progress, size

FOLDER = ".download"  # in the folder of the corpus
CHUNK = 1 << 20  # bytes
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # waits between attempts that brought nothing
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for
TIMEOUT = 60.0  # seconds without a byte
TRY_AGAIN = frozenset({408, 425, 429})  # and every 5xx: HTTP's ways to say "later"
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
VERSION = ".version"  # ends the name of the file with the server's name for the version that a partial file is of


class Trouble(Exception):
    """An attempt that may go better the next time."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait  # seconds the server asks for


def names(addresses: Iterable[str]) -> list[str]:
    """Returns a name for each address: its path below the folder that all of them are in, for one its last part."""
    paths = [
        PurePosixPath(urlsplit(address).netloc, *unquote(urlsplit(address).path).split("/")) for address in addresses
    ]
    common = next(folder for folder in paths[0].parents if all(path.is_relative_to(folder) for path in paths))
    found = [path.relative_to(common).as_posix() for path in paths]
    times = Counter(found)
    for address, name in zip(addresses, found, strict=True):
        if times[name] > 1:
            raise UserError(f"corpus.url: {address} and another address both give the file name {name}; leave one out")
        files.check_name(name, "corpus.url")
    return found


def keep_only(folder: Path, sums: Iterable[str]) -> None:
    """Makes the folder of downloads, and removes from it what is not of these sums: an earlier configuration's."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name for sha256 in sums for name in (sha256, sha256 + VERSION)}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def fetch(
    address: str, sha256: str, folder: Path, progress: Progress, waits: tuple[float, ...] = RETRY_SECONDS
) -> Path:
    """Returns the file at an address, downloaded into `folder` as far as it is not there yet.

    Raises UserError where it cannot be had, or is another one than that with this sha256.
    """
    if address.startswith("file:"):
        return local(address, sha256)
    path = folder / sha256
    begun = path.exists()
    if begun and file_sha256(path) == sha256:
        return path
    if begun:
        progress.say(f"{address}: going on after {size(path.stat().st_size)}")
    trouble, pieces = download(address, path, progress, waits)
    if (found := file_sha256(path) if path.exists() else "") == sha256:
        return path
    if not trouble and (begun or pieces > 1):
        progress.say(f"{address}: the pieces do not make the right file; fetching all of it again")
        discard(path)
        trouble, _ = download(address, path, progress, waits)
        if (found := file_sha256(path) if path.exists() else "") == sha256:
            return path
    if trouble:
        raise UserError(f"corpus: cannot download {address}: {trouble}")
    discard(path)
    raise wrong(address, found, sha256)


def local(address: str, sha256: str) -> Path:
    """Returns the file of this machine that a file:// address stands for."""
    path = Path(urllib.request.url2pathname(urlsplit(address).path))
    if not path.is_file():
        raise UserError(f"corpus: cannot download {address}: no such file")
    if (found := file_sha256(path)) != sha256:
        raise wrong(address, found, sha256)
    return path


def wrong(address: str, found: str, expected: str) -> UserError:
    """Returns the error for a file that is not the expected one."""
    return UserError(
        f"corpus.sha256: the file at {address} has {found}, not {expected};"
        " it has changed or was altered on the way: put the new sum there if you trust it"
    )


def discard(path: Path) -> None:
    """Removes what has come of a file."""
    path.unlink(missing_ok=True)
    version_file(path).unlink(missing_ok=True)


def version_file(path: Path) -> Path:
    return path.with_name(path.name + VERSION)


def download(address: str, path: Path, progress: Progress, waits: tuple[float, ...]) -> tuple[str, int]:
    """Fetches what is missing of a file and returns (why that failed, or nothing; how many pieces were fetched).

    Gives up where several attempts one after the other have brought nothing new.
    """
    pieces, failures, most = 0, 0, have(path)
    while True:
        try:
            pieces += 1
            attempt(address, path, progress)
            return "", pieces
        except Trouble as trouble:
            failures = 0 if have(path) > most else failures + 1
            most = max(most, have(path))
            if failures > len(waits):
                return str(trouble), pieces
            wait = max(trouble.wait, waits[max(failures, 1) - 1] if waits else 0)
            if wait > LONGEST_WAIT:
                return f"{trouble}, for {wait:.0f} s; run it again then", pieces
            progress.say(f"{address}: {trouble}; trying again in {wait:.0f} s")
            time.sleep(wait)
        except (http.client.InvalidURL, urllib.error.URLError) as error:
            return describe(error), pieces


def have(path: Path) -> int:
    """Returns how many bytes of a file have come."""
    return path.stat().st_size if path.exists() else 0


def attempt(address: str, path: Path, progress: Progress) -> None:
    """Asks for what is missing of a file once, and writes all that comes. Raises Trouble where that is not the rest."""
    headers = {"User-Agent": "makelm", "Accept-Encoding": "identity"}
    if start := have(path):
        headers["Range"] = f"bytes={start}-"
        if version_file(path).exists():
            headers["If-Range"] = version_file(path).read_text()  # of another version the server sends all
    try:
        response = ask(urllib.request.Request(address, headers=headers))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or what is there is of something longer: the sum says which
            return
        if error.code < 500 and error.code not in TRY_AGAIN:
            raise
        raise Trouble(describe(error), retry_after(error.headers.get("Retry-After"))) from None
    with response:
        receive(response, path, start, progress)


def ask(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Returns what a server answers. Raises Trouble where it cannot be reached, URLError where it never will be."""
    try:
        return urllib.request.build_opener().open(request, timeout=TIMEOUT)  # asks the environment for proxies
    except (urllib.error.HTTPError, http.client.InvalidURL):
        raise
    except (http.client.HTTPException, OSError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise
        raise Trouble(describe(error)) from None


def receive(response: http.client.HTTPResponse, path: Path, start: int, progress: Progress) -> None:
    """Writes what a server answers to where it belongs. Raises Trouble where it breaks off."""
    if response.status == 206:
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) > start:
            discard(path)  # asked without a range, it has to send all
            raise Trouble("it sends another part than the one asked for")
        start = int(found[1])
    else:  # all of it
        start = 0
        keep_version(path, response)
    length = response.headers.get("Content-Length", "")
    missing = int(length) if length.isdigit() else None
    with path.open("r+b" if start else "wb") as file, progress.track(start + (missing or 0), "B", start) as bar:
        file.seek(start)
        file.truncate()
        # whatever has come is written at once, since nobody knows whether more will
        while missing != 0 and (chunk := next_chunk(response, missing)):
            file.write(chunk)
            file.flush()
            bar.advance(len(chunk))
            missing = None if missing is None else missing - len(chunk)
    if missing:
        raise Trouble(f"cut off, {size(missing)} are missing")


def next_chunk(response: http.client.HTTPResponse, missing: int | None) -> bytes:
    """Returns what has come by now, or nothing at the end. Raises Trouble where nothing more comes."""
    try:
        return response.read1(min(CHUNK, missing or CHUNK))
    except (http.client.HTTPException, OSError) as error:
        raise Trouble(describe(error)) from None


def keep_version(path: Path, response: http.client.HTTPResponse) -> None:
    """Writes down what a server calls the version it sends, in words that If-Range takes."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    if version:
        version_file(path).write_text(version)
    else:
        version_file(path).unlink(missing_ok=True)


def retry_after(value: str | None) -> float:
    """Returns the seconds that a server asks to wait, in either of the two ways to say it."""
    if not value:
        return 0.0
    if value.isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def describe(error: Exception) -> str:
    """Returns what went wrong, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {first_line(Exception(error.reason))}"
    if isinstance(error, urllib.error.URLError):  # a frame around what went wrong
        return first_line(Exception(error.reason))
    return first_line(error)
