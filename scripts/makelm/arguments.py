"""Keys as words of a command line: a long text stands in a file of its own, whose path takes its place.

Linux takes up to 128 KiB for one word.
"""

import hashlib
from pathlib import Path

from makelm import manifest

LONGEST = 8 << 10  # bytes: a shell's whole command may be one word, with two such texts, and five signs for each quote


def word(text: str, folder: Path) -> str:
    """Returns a JSON text or, of a long one, the path of a file that has it, named by its sha256.

    So equal words are equal texts. Files are written again where they are gone: what asks is also a cluster's job.
    """
    data = text.encode()
    if len(data) <= LONGEST:
        return text
    path = folder / f"{hashlib.sha256(data).hexdigest()}.json"
    if not path.exists() or path.read_bytes() != data:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.replace_text(path, text, several=True)
    return str(path)
