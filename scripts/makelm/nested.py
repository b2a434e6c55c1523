"""Keys inside keys, as a configuration has them: as one map with dotted names, and where two of them differ."""

from collections.abc import Iterator
from typing import Any

ABSENT = "absent"  # in place of the value of a key that is not there


def flat(keys: dict, prefix: str = "") -> dict[str, Any]:
    """Returns nested keys as one map with dotted names. An empty map is a value of its own, and stays one."""
    found = {}
    for name, value in keys.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def differences(own: dict, other: dict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, own value, the other's) of each key in which nested keys differ, by name."""
    for name in sorted({*own, *other}):
        value, theirs = own.get(name, ABSENT), other.get(name, ABSENT)
        if isinstance(value, dict) and isinstance(theirs, dict):
            yield from differences(value, theirs, f"{prefix}{name}.")
        elif value != theirs:
            yield prefix + name, value, theirs
