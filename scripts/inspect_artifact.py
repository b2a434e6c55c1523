"""Looks into any artifact: what it holds, how it was made, and what it was made from, back to the corpus.

    python scripts/inspect_artifact.py results/train_model/stdlib/weights/model.safetensors

No stage: it writes nothing. Token shards, document shards, tokenizers, weights and checkpoints show what is
in them; anything with a manifest shows that.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from makelm import inspection
from makelm.errors import USER, UserError
from makelm.progress import forgive, size

SHORT = 12  # digits of a digest that a person compares


def main() -> None:
    parser = argparse.ArgumentParser(
        "inspect_artifact.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a file or folder below results/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    forgive(sys.stdout)
    try:
        about = inspection.inspect(args.path)
    except UserError as error:
        sys.exit(complain(str(error)))
    except OSError as error:
        sys.exit(complain(f"{error.filename}: {error.strerror}"))
    try:
        print(json.dumps(about, indent=1, ensure_ascii=False) if args.json else text(about), flush=True)
    except BrokenPipeError:  # head has seen enough
        os._exit(0)


def complain(line: str) -> int:
    """Writes one line to stderr and returns the exit code."""
    print(line, file=sys.stderr)
    return USER


def text(about: dict[str, Any]) -> str:
    """Returns what is known about an artifact, for a person."""
    lines = [f"{about['path']}: {about['kind']}", *block(about["facts"])]
    if "manifest" in about:
        lines += manifest_lines(about["manifest"])
        lines += ["made from", *(f"  {n['place']}  {n['digest'][:SHORT]}" for n in about["made_from"])]
        lines += [
            f"  {gap['name']} of {gap['input_of']}  {gap['digest'][:SHORT]}: no longer there"
            for gap in about["no_longer_there"]
        ]
        if not about["made_from"] and not about["no_longer_there"]:
            lines[-1] += " nothing that makelm made"
    return "\n".join(lines)


def block(facts: dict[str, Any], indent: str = "  ") -> list[str]:
    """Returns a nested dictionary as indented lines; the inner ones that are short stand in one line."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict) and value and (any(isinstance(v, dict) for v in value.values()) or len(value) > 4):
            lines += [f"{indent}{key}", *block(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {plain(key, value)}")
    return lines


def plain(key: str, value: Any) -> str:
    """Returns a value in one line; bytes as a person reads them."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(name, inner)}" for name, inner in value.items()) or "none"
    if key.endswith("bytes") and isinstance(value, int):
        return f"{value:,} ({size(value)})" if value >= 1000 else str(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return f"{value:,}" if key not in ("magic", "version") else str(value)


def manifest_lines(manifest: dict[str, Any]) -> list[str]:
    """Returns a manifest for a person."""
    content, made = manifest["content"], manifest["made"]
    config = {key: value for key, value in content["config"].items() if key != "locked"}
    return [
        f"made by {content['stage']} at {made['started']} in {made['seconds']} s on {made['host']}",
        f"  {made['system']}, Python {made['python']}, {made['device']}, {made['cores']} cores,"
        f" {size(made['peak_memory_bytes'])} of memory at most",
        f"  content {manifest['digest'][:SHORT]}, code {content['code'][:SHORT]}",
        f"  packages: {', '.join(f'{name} {version}' for name, version in content['packages'].items())}",
        *block({"config": config} if config else {}),
        *block({"found": content["facts"]} if content["facts"] else {}),
        "  files",
        *(
            f"    {name}  {size(entry['bytes'])}  {entry['sha256'][:SHORT]}"
            if entry
            else f"    {name}  (measured times)"
            for name, entry in content["files"].items()
        ),
    ]


if __name__ == "__main__":
    main()
