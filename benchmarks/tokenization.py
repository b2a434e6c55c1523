"""How fast stage encode_shard is, beside nanoGPT's method and tiktoken's own batches, on the same text and cores.

    python benchmarks/tokenization.py --ranks gpt2.tiktoken --text /usr/share --megabytes 100

The methods take turns, each in a process of its own: a pass of all of them, `--repeats` times. Prints JSON: for each
method the median rate, CPU seconds and peak memory, and the median over the passes of what it is to the others.

- stage: scripts/encode_shard.py as a whole, from compressed documents to a token shard
- fast: the same with encoder: gigatoken, where that package is installed
- map: datasets.map with one process per core and one call of tiktoken per document, then a memory-mapped file
- batch: tiktoken's encode_ordinary_batch over lists of texts in memory; the ids are dropped
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import numpy as np  # noqa: E402

from makelm import documents, manifest, tokenizer  # noqa: E402

BATCH = 8 << 20  # characters of text that tiktoken gets at a time
PACKAGES = ("tiktoken", "datasets", "gigatoken")


def texts_of(folders: list[Path], wanted: int) -> Iterator[str]:
    """Yields the files of the folders that are UTF-8, mixed, again and again until they are so many bytes."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    random.Random(0).shuffle(paths)
    size = 0
    while size < wanted:
        before = size
        for path in paths:
            try:
                text = path.read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue
            if text and "\0" not in text:
                yield text
                size += len(text.encode())
            if size >= wanted:
                return
        assert size > before, "no text there"


def prepare(top: Path, folders: list[Path], wanted: int, ranks: str | None) -> int:
    """Makes a corpus of one shard, the same as a data set, and GPT-2's tokenizer. Returns the bytes of text."""
    import datasets

    texts = list(texts_of(folders, wanted))
    facts = {"num_shards": 1}
    for part, some in (("train", texts), ("valid", [])):
        with documents.PartWriter(top / "corpus", part, 1) as writer:
            for number, text in enumerate(some):
                writer.write(documents.Document(str(number), text))
        facts[part] = writer.facts()
    content = {
        "stage": "download_corpus",
        "files": manifest.describe_files(top / "corpus", frozenset()),
        "facts": facts,
    }
    (top / "corpus/manifest.json").write_text(json.dumps(manifest.build(content, {})))
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(top / "dataset")
    keys = {"kind": "tiktoken", "encoding": "gpt2", "begin_of_text": False, "end_of_text": True}
    how = {"tokenizer": {"file": ranks, "encoder": "tiktoken"}}
    stage(top, "train_tokenizer", {"tokenizer": keys}, how, top / "tokenizer")
    return facts["train"]["bytes"]


def stage(top: Path, name: str, keys: dict, execution: dict, out: Path, *arguments: object) -> None:
    command = [sys.executable, SCRIPTS / f"{name}.py", "--config", json.dumps({"locked": {}} | keys), "--out", out]
    command += ["--execution", json.dumps(execution), "--log", top / "log", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# ---- the methods: each returns the number of tokens


def by_stage(top: Path, cores: int, encoder: str) -> int:
    places = ("--corpus", top / "corpus", "--tokenizer", top / "tokenizer", "--shard", 0, "--cores", cores)
    stage(top, "encode_shard", {}, {"encoder": encoder}, top / "tokens", *places)
    return manifest.read(top / "tokens/00000.json")["content"]["facts"]["train"]["tokens"]


def by_map(top: Path, cores: int) -> int:
    import datasets

    encoding = tokenizer.load(top / "tokenizer").encoding

    def encoded(row: dict) -> dict:
        ids = [*encoding.encode_ordinary(row["text"]), encoding.eot_token]
        return {"ids": ids, "len": len(ids)}

    rows = datasets.load_from_disk(top / "dataset").map(encoded, remove_columns=["text"], num_proc=cores)
    total = int(np.sum(rows["len"], dtype=np.uint64))
    file = np.memmap(top / "ids.bin", dtype=np.uint16, mode="w+", shape=(total,))
    parts, place = min(1024, len(rows)), 0
    for number in range(parts):
        part = np.concatenate(rows.shard(parts, number, contiguous=True).with_format("numpy")["ids"][:])
        file[place : place + len(part)] = part
        place += len(part)
    file.flush()
    return total


def by_batch(texts: list[list[str]], cores: int, encoding) -> int:
    return sum(len(ids) + 1 for some in texts for ids in encoding.encode_ordinary_batch(some, num_threads=cores))


def batches(top: Path) -> list[list[str]]:
    """Returns the texts in lists of about BATCH characters."""
    found, length = [[]], 0
    for document in documents.read(top / "corpus" / documents.shard_name("train", 0)):
        if length >= BATCH:
            found.append([])
            length = 0
        found[-1].append(document.text)
        length += len(document.text)
    return found


def measure(method: str, top: Path, cores: int) -> dict:
    """Returns what one pass of a method takes; runs in a process of its own."""
    if method == "batch":
        texts, encoding = batches(top), tokenizer.load(top / "tokenizer").encoding
        run = lambda: by_batch(texts, cores, encoding)  # noqa: E731
    elif method == "map":
        os.environ["HF_DATASETS_CACHE"] = str(top / "cache")
        import datasets

        datasets.disable_caching()
        datasets.disable_progress_bars()
        run = lambda: by_map(top, cores)  # noqa: E731
    else:
        run = lambda: by_stage(top, cores, {"stage": "tiktoken", "fast": "gigatoken"}[method])  # noqa: E731
    before, started = cpu_seconds(), time.monotonic()
    tokens = run()
    seconds = time.monotonic() - started
    own, others = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = 1024 * (others if method in ("stage", "fast") else max(own, others))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - before, "peak_bytes": peak, "tokens": tokens}


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def passes(top: Path, cores: int, repeats: int) -> dict[str, list[dict]]:
    """Returns what each pass of each method took. Every method must find as many tokens."""
    fast = ["fast"] if importlib.util.find_spec("gigatoken") else []
    found: dict[str, list[dict]] = {name: [] for name in ("stage", *fast, "map", "batch")}
    for _ in range(repeats):
        for name in found:
            command = [sys.executable, __file__, "--measure", name, "--at", top, "--cores", str(cores)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1], file=sys.stderr)
    assert len({each["tokens"] for rows in found.values() for each in rows}) == 1
    return found


def summary(found: dict[str, list[dict]], size: int) -> dict:
    """Returns medians and, of the stage's two ways, how many times as fast as the others each is."""
    middle = lambda name, key: statistics.median(row[key] for row in found[name])  # noqa: E731
    methods = {
        name: {
            "megabytes_per_second": round(size / 1e6 / middle(name, "seconds"), 2),
            "cpu_seconds": round(middle(name, "cpu_seconds"), 1),
            "peak_megabytes": round(max(row["peak_bytes"] for row in rows) / 1e6),
        }
        for name, rows in found.items()
    }
    ratios = {}
    for name in (name for name in ("stage", "fast") if name in found):
        for other in ("map", "batch"):
            pairs = list(zip(found[other], found[name], strict=True))
            for key in ("seconds", "cpu_seconds"):
                ratios[f"{name} to {other}, {key}"] = round(statistics.median(a[key] / b[key] for a, b in pairs), 2)
    return {"methods": methods, "times_as_fast": ratios}


def main() -> None:
    """Runs the comparison, or one pass of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20, help="of text (default: 20)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each method (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="that each method uses (default: 2)")
    parser.add_argument("--text", type=Path, nargs="+", help="folders of text files (default: Python's own library)")
    parser.add_argument("--ranks", type=os.path.abspath, help="GPT-2's ranks; without, tiktoken fetches them")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.at, args.cores)))
        return
    folders = args.text or [Path(sysconfig.get_path("stdlib"))]
    with tempfile.TemporaryDirectory() as top:
        (Path(top) / "corpus").mkdir()
        # in a process of its own: what starts others hands its own peak of memory down to them
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            size = pool.submit(prepare, Path(top), folders, int(args.megabytes * 1e6), args.ranks).result()
        found = passes(Path(top), args.cores, args.repeats)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    about = {"bytes": size, "cores": args.cores, "repeats": args.repeats, "machine": platform.machine()}
    print(
        json.dumps(about | {"python": platform.python_version(), "packages": versions} | summary(found, size), indent=1)
    )


if __name__ == "__main__":
    main()
