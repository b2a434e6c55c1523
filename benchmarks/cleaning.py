"""Cleans a corpus of synthetic documents of which so many are copies and so many contain passages of validation.

    python benchmarks/cleaning.py [--megabytes 500] [--cores 2] [--repair]

Prints what each part of download_corpus took, in MB/s, the most memory that all its processes held together, and
whether the manifest says what was put in.
"""

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from makelm import documents  # noqa: E402

VOCABULARY = 50_000
COPIES, CONTAMINATED = 0.1, 0.02  # shares of the documents
PASSAGE = 40  # words
VALID = 0.01
PHASES = ("first pass", "second pass", "xz")
BEGINS = {"looking for": 1, "compressing": 2}  # what the stage says -> the phase that begins


def write_documents(path: Path, megabytes: int) -> dict[str, int]:
    """Writes documents of 100 to 1,500 words and returns how many are copies, and how many contaminated in train."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (VOCABULARY, 9), np.uint8)
    words = np.array([bytes(word[: 2 + number % 8]).decode() for number, word in enumerate(letters)])
    kept, passages, made = [], [], {"copies": 0, "contaminated": 0}
    with path.open("w") as file:
        number = 0
        while file.tell() < megabytes * 1e6:
            number += 1
            kind, size = rng.random(), rng.integers(100, 1500)
            text = " ".join(words[(VOCABULARY * rng.random(size) ** 3).astype(int)])
            valid = documents.hash_fraction(f"documents.jsonl:{number}") < VALID
            if kept and kind < COPIES:
                text = kept[rng.integers(len(kept))]
                made["copies"] += 1
            elif passages and not valid and kind < COPIES + CONTAMINATED:
                text = f"{text} {passages[rng.integers(len(passages))]}"
                made["contaminated"] += 1
            elif valid:
                passages.append(" ".join(text.split()[:PASSAGE]))
            elif len(kept) < 10_000:
                kept.append(text)
            file.write(f'{{"text": "{text}"}}\n')
    return made


def settings(path: Path, repair: bool) -> dict:
    clean = {"ftfy": "repair" if repair else None, "normalize": "NFC", "min_bytes": 100, "max_bytes": None}
    clean |= dict.fromkeys(("min_unique_words", "max_repeated_lines", "max_repeated_5grams", "max_top_2gram"))
    clean |= {"deduplicate": True, "max_contamination": 0, "evaluation_texts": None}
    source = {"source": "local", "paths": [str(path)], "text_key": "text", "max_documents": None, "clean": clean}
    return {"locked": {}, "python": None, "corpus": source | {"shards": 8, "split": "hash", "valid_fraction": VALID}}


def measure(command: list[str]) -> tuple[list[float], list[int]]:
    """Runs the stage and returns the seconds and the most memory in bytes of each phase."""
    # without a buffer here: what lies in one makes no pipe readable
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    watched = psutil.Process(process.pid)
    seconds, memory, phase = [0.0] * len(PHASES), [0] * len(PHASES), 0
    lines = selectors.DefaultSelector()
    lines.register(process.stdout, selectors.EVENT_READ)
    before = time.monotonic()
    while process.poll() is None:
        if lines.select(timeout=0.2):
            said = process.stdout.readline().decode()
            phase = next((number for text, number in BEGINS.items() if text in said), phase)
        memory[phase] = max(memory[phase], held(watched))
        now = time.monotonic()
        seconds[phase], before = seconds[phase] + now - before, now
    if process.returncode:
        raise SystemExit(f"download_corpus ended with {process.returncode}")
    return seconds, memory


def held(process: psutil.Process) -> int:
    """Returns the memory that a process and those it started hold, what they share counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repair", action="store_true", help="with ftfy")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "documents.jsonl")
        made = write_documents(path, args.megabytes)
        size = path.stat().st_size
        program = [sys.executable, str(REPOSITORY / "scripts" / "download_corpus.py"), "--out", f"{folder}/out"]
        keys = json.dumps(settings(path, args.repair))
        seconds, memory = measure([*program, "--config", keys, "--cores", str(args.cores)])
        facts = json.loads(Path(folder, "out", "manifest.json").read_text())["content"]["facts"]
    for name, spent, most in zip(PHASES, seconds, memory, strict=True):
        print(f"{name:12} {spent:7.1f} s {size / 1e6 / spent:7.1f} MB/s {most / 1e6:6.0f} MB held at most")
    dropped = {}
    for step in facts["cleaning"]:
        dropped |= {reason: counts["documents"] for reason, counts in step["dropped"].items()}
    copies = sum(count for reason, count in dropped.items() if "copy" in reason)
    print(f"copies: {made['copies']} put in, {copies} dropped")
    print(f"contaminated: {made['contaminated']} put in, {dropped['contaminated']} dropped")


if __name__ == "__main__":
    main()
