"""What a large corpus takes from its files to token shards, stage by stage, through the workflow.

    python benchmarks/large_corpus.py --text /usr/share --gigabytes 2 --at /scratch

Makes a folder of .jsonl.zst files of so much text, in which no two documents are equal: the text files of the folders,
again and again, a word of each changed every time. Then builds its token shards with a tokenizer learned from all of
it, and prints JSON: for each stage the seconds and MB/s of text, the most memory of a job, and bytes on disk.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
import zstandard
from tokenization import texts_of

ROOT = Path(__file__).resolve().parent.parent
FILES = 8
TARGETS = "results/encode_shard/large/large_bpe/{:05d}.json"


def texts(folders: list[Path], size: int) -> Iterator[str]:
    """Yields texts of so many bytes together, no two of them equal."""
    rng = random.Random(0)
    for number, text in enumerate(texts_of(folders, size)):
        words = text.split(" ")
        words[rng.randrange(len(words))] = f"word{number}"
        yield " ".join(words)


def write_corpus(folder: Path, folders: list[Path], size: int) -> None:
    """Deals the texts out to compressed files."""
    folder.mkdir()
    files = [zstandard.open(folder / f"{number}.jsonl.zst", "wb") for number in range(FILES)]
    for number, text in enumerate(texts(folders, size)):
        files[number % FILES].write(json.dumps({"text": text}).encode() + b"\n")
    for file in files:
        file.close()


def configuration(folder: Path, shards: int) -> dict:
    """Returns what is laid over config.yaml."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    corpus = {"source": "local", "paths": [str(folder)], "text_key": "text", "clean": None, "max_documents": None}
    corpus |= {"shards": shards, "split": "hash", "valid_fraction": 0.01}
    tokenizer = default["tokenizer"]["stdlib_bpe"] | {"corpus": "large", "vocab_size": 32768}
    run = {"base": "stdlib", "corpus": "large", "tokenizer": "large_bpe"}
    return {
        "corpus": {"large": corpus},
        "tokenizer": {"large_bpe": tokenizer},
        "run": {"large": run},
        "runs": ["large"],
    }


def made(manifests: list[Path]) -> dict:
    """Returns what the jobs of one stage took together, one after the other."""
    found = [json.loads(path.read_text()) for path in manifests]
    files = [facts for one in found for facts in one["content"]["files"].values() if facts]
    return {
        "jobs": len(found),
        "seconds": round(sum(one["made"]["seconds"] for one in found), 1),
        "most_memory_mb": round(max(one["made"]["peak_memory_bytes"] for one in found) / 1e6),
        "disk_mb": round(sum(facts["bytes"] for facts in files) / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="folders with files of text")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--at", type=Path, help="where to work; about three times as much space is needed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.at) as scratch:
        top = Path(scratch)
        write_corpus(top / "texts", args.text, int(args.gigabytes * 1e9))
        (top / "large.yaml").write_text(yaml.safe_dump(configuration(top / "texts", args.shards)))
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", top]
        command += ["--cores", str(args.cores), *map(TARGETS.format, range(args.shards))]
        subprocess.run([*command, "--configfile", top / "large.yaml"], check=True, stdout=sys.stderr)
        corpus = json.loads((top / "results/download_corpus/large/manifest.json").read_text())["content"]["facts"]
        size = sum(corpus[part]["bytes"] for part in ("train", "valid"))
        stages = {
            "download_corpus": made([top / "results/download_corpus/large/manifest.json"]),
            "train_tokenizer": made([top / "results/train_tokenizer/large_bpe/manifest.json"]),
            "encode_shard": made([top / TARGETS.format(number) for number in range(args.shards)]),
        }
        for facts in stages.values():
            facts["mb_per_second"] = round(size / 1e6 / facts["seconds"], 1)
        print(json.dumps({"bytes": size, "contamination": corpus["contamination"], "stages": stages}, indent=1))


if __name__ == "__main__":
    main()
