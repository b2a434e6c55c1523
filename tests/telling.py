"""Rows that tests of faults have for the tables in docs/training.md, written with `make test-faults TABLES=1`."""

import os
from collections.abc import Callable, Iterator

import pytest
import tables


@pytest.fixture(scope="session")
def told() -> Iterator[dict[str, list[tuple[str, ...]]]]:
    """Collects rows by table; at the end, the tables of which there are rows are written, if that was asked for."""
    rows = {name: [] for name in tables.HEADS}
    yield rows
    if os.environ.get("MAKELM_TABLES"):
        for name in filter(rows.get, rows):
            tables.write(name, sorted(rows[name]))


@pytest.fixture
def tell(told) -> Callable[..., None]:
    """Adds a row to a table, and prints it."""

    def add(name: str, *cells: str) -> None:
        told[name].append(cells)
        print(" | ".join(cells))

    return add
