"""What the tests of faults share: rows of the tables in docs/training.md, written with `make test-faults TABLES=1`."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "training.md"
HEADS = {
    "meshes": ("model", "data x fsdp x tensor", "largest relative difference of a loss"),
    "faults": ("what was done", "what came of it"),
    "plans": ("run", "devices", "parameters", "state", "temporary", "exchanged a step", "method"),
}


@pytest.fixture(scope="session")
def tables() -> Iterator[dict[str, list[tuple[str, ...]]]]:
    """Collects rows by table; at the end, the tables of which there are rows are written, if that was asked for."""
    rows = {name: [] for name in HEADS}
    yield rows
    if os.environ.get("MAKELM_TABLES"):
        text = DOCUMENT.read_text()
        for name, found in rows.items():
            if found:
                text = with_table(text, name, found)
        DOCUMENT.write_text(text)


@pytest.fixture
def tell(tables) -> Callable[..., None]:
    """Adds a row to a table, and prints it."""

    def add(name: str, *cells: str) -> None:
        assert len(cells) == len(HEADS[name])
        tables[name].append(cells)
        print(" | ".join(cells))

    return add


def with_table(text: str, name: str, rows: list[tuple[str, ...]]) -> str:
    """Returns a document with the rows of one table in place of what it had."""
    lines = [HEADS[name], ["---"] * len(HEADS[name]), *sorted(rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    new, count = re.subn(
        rf"(<!-- table {name} -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S
    )
    assert count == 1, f"{DOCUMENT} has no place for the table {name}"
    return new
