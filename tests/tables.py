"""The tables of docs/training.md, which programs write."""

import re
from collections.abc import Iterable
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "training.md"
HEADS = {
    "meshes": ("model", "data x fsdp x tensor", "largest relative difference of a loss"),
    "faults": ("what was done", "what came of it"),
    "plans": ("run", "for", "parameters", "GB of state", "other GB", "GB exchanged a step", "compiled"),
}


def write(name: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Puts rows in place of those that a table has."""
    lines = [HEADS[name], ("---",) * len(HEADS[name]), *rows]
    assert all(len(cells) == len(HEADS[name]) for cells in lines)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text, count = re.subn(
        rf"(<!-- table {name} -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{table}\n{found[2]}",
        DOCUMENT.read_text(),
        flags=re.DOTALL,
    )
    assert count == 1, f"{DOCUMENT} has no place for the table {name}"
    DOCUMENT.write_text(text)
