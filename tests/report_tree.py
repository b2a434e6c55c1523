"""A results folder as the stages would leave it, for tests of what is made of one."""

import json
import math
from pathlib import Path

from makelm import manifest, report_runs

HOSTILE = "</script><img src=x onerror=alert(1)>&amp; \"'\x00\x1b[31m\r\u2028\ud800{{ 7*7 }}"
RATES = {"small": 1e-3, "large": 5e-3}
TOKENIZERS = {"tiny": "bpe", "web": "web_bpe"}  # corpus -> its tokenizer
TASKS = {"asked": ["piqa", "own"]}  # run -> its tasks
ADDRESS = f"https://a/{30 * 'b'}.txt"


class Tree:
    """A results folder as the stages would leave it, with files of a few lines."""

    def __init__(self, results: Path):
        self.results = results
        self.digests: dict[str, str] = {}

    def put(self, folder: str, files: dict, inputs: list[str], config: dict, facts: dict, name="manifest") -> None:
        """Writes files and their manifest; inputs are the places of other manifests."""
        place = self.results / folder
        place.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (place / file).write_text(text)
        listed = manifest.describe_files(place, frozenset({"timings.jsonl"}))
        content = {
            "stage": folder.split("/")[0],
            "config": config | {"locked": {"numpy": "2.0"}},
            "inputs": {place: self.digests[place] for place in inputs},
            "code": "c0de" * 16,
            "packages": {"numpy": "2.0"},
            "files": {file: listed[file] for file in files},
            "facts": facts,
        }
        made = {
            "host": "bench-7",
            "system": "Linux x86_64",
            "python": "3.11.7",
            "device": "cpu",
            "cores": 2,
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 208.4,
            "peak_memory_bytes": 1_234_000_000,
            "command": f"python scripts/{folder.split('/')[0]}.py --out results/{folder}",
        }
        built = manifest.build(content, made)
        (place / f"{name}.json").write_text(json.dumps(built))
        self.digests[f"{folder}/{name}"] = built["digest"]

    def data(self, name: str = "tiny", keys: dict | None = None) -> None:
        """Writes a corpus, its tokenizer and two token shards."""
        seen = {"share": 0.0312, "documents": 29, "documents_over_half": 1}
        facts = {"contamination": {"ngram": 13, "validation": seen}}
        self.put(f"download_corpus/{name}", {}, [], {"corpus": keys or {"source": "local", "shards": 2}}, facts)
        own = TOKENIZERS[name]
        corpus, tokenizer = f"download_corpus/{name}/manifest", f"train_tokenizer/{own}/manifest"
        self.put(f"train_tokenizer/{own}", {}, [corpus], {"tokenizer": {"kind": "bpe", "vocab_size": 512}}, {})
        for shard in ("00000", "00001"):
            self.put(f"encode_shard/{name}/{own}", {}, [corpus, tokenizer], {}, {"shard": shard}, shard)

    def run(self, name: str, rate: float, metrics: list[dict], samples: list[dict], bits: float, on="tiny") -> None:
        """Writes what the five stages of a run leave; `on` is its corpus."""
        tokenizer, trained = f"train_tokenizer/{TOKENIZERS[on]}/manifest", f"train_model/{name}/manifest"
        shards = [f"encode_shard/{on}/{TOKENIZERS[on]}/{shard}" for shard in ("00000", "00001")]
        corpus = f"download_corpus/{on}/manifest"
        train = {"steps": len(metrics), "optimizer": {"learning_rate": rate}}
        last, memory = metrics[-1], {"parameters": 5_080_000, "optimizer": 10_160_000}
        plan = {"parameters": 1_270_016, "flops_per_token": 8.1e6, "bytes_per_device": memory, "devices": 1}
        self.put(f"plan_run/{name}", {"plan.json": json.dumps(plan)}, [tokenizer], {"mesh": {"fsdp": -1}}, {})
        summary = {"steps": len(metrics), "tokens": last["tokens"], "loss": last["loss"], "parameters": 1_270_016}
        summary |= {"epochs": {on: 0.98}, "published_step": len(metrics)}
        timings = [{"step": row["step"], "seconds": 0.24, "tokens_per_second": 8000 + row["step"]} for row in metrics]
        files = {"metrics.jsonl": lines(metrics), "timings.jsonl": lines(timings), "summary.json": json.dumps(summary)}
        self.put(f"train_model/{name}", files, shards, {"corpus": on} | {"model": {"d_model": 128}, "train": train}, {})
        facts = {"samples": len(samples), "parse_rate": 0.5}
        self.put(f"sample_model/{name}", {"samples.jsonl": lines(samples)}, [trained, tokenizer], {}, facts)
        scores = {"validation_loss": 3.21, "validation_loss_sem": 0.012, "perplexity": 24.8, "bits_per_byte": bits}
        scores |= {"xz_bits_per_byte": 1.869, "xz_after_train_bits_per_byte": 1.458, "tokens": 98765, "bytes": 307393}
        self.put(f"evaluate_model/{name}", {"scores.json": json.dumps(scores)}, [trained, *shards, corpus], {}, {})
        self.put(f"export_model/{name}", {}, [trained, tokenizer], {}, {"architecture": "Qwen3ForCausalLM"})

    def asked(self, name: str, task: str, known_as: str, metrics: dict[str, float], limit=None, ngrams=1000) -> None:
        """Writes what is left of asking a run a task."""
        self.put(f"download_task/{task}", {}, [], {"task": {"name": known_as, "file": None}}, {})
        seen = {"ngram": 13, "ngrams": ngrams, "share": 0.031, "documents_with_any": 9}
        scores = {
            "task": known_as,
            "version": 1.0,
            "documents": 1838,
            "num_fewshot": 0,
            "limit": limit,
            "prompts": "ab",
        }
        scores |= {"metrics": {m: {"value": v, "stderr": 0.011} for m, v in metrics.items()}, "contamination": seen}
        inputs = [f"train_model/{name}/manifest", f"download_task/{task}/manifest"]
        keys = {"task": {"num_fewshot": None, "limit": limit, "logprobs": False}}
        self.put(f"evaluate_task/{name}/{task}", {"scores.json": json.dumps(scores)}, inputs, keys, {})


def lines(objects: list[dict]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


def steps(amount: int) -> list[dict]:
    """Returns a loss that falls, with a validation loss now and then."""
    found = []
    for step in range(1, amount + 1):
        row = {"step": step, "tokens": step * 2048, "loss": 3 + 4 * math.exp(-step / 5), "learning_rate": 1e-3}
        found.append(row | {"grad_norm": 1.5} | ({"validation_loss": 3.4} if step % 5 == 0 else {}))
    return found


def sample(prompt: str = "def ", text: str = "f(): pass\n", parses: bool | None = True) -> dict:
    options = {"temperature": 0.8, "top_k": None, "top_p": 0.95, "max_new_tokens": 200}
    return {
        "prompt": prompt,
        "text": text,
        "tokens": [1, 2, 3],
        "finish_reason": "length",
        "seed": 0,
        "index": 1,
        "parses": parses,
        "options": options,
    }


def read(results: Path, *names: str) -> list[report_runs.Run]:
    return report_runs.read_runs(results, {name: TASKS.get(name, []) for name in names}, lambda name, path: None)


def two_corpora(folder: Path) -> Path:
    """Returns a results folder with two runs on each of two corpora that have different keys."""
    tree = Tree(folder / "results")
    tree.data()
    tree.data("web", {"source": "url", "url": [ADDRESS], "clean": None})
    for number, corpus in enumerate(("tiny", "web")):
        for name, rate in RATES.items():
            tree.run(f"{corpus}-{name}", rate, steps(10), [sample()], (1.5, 0.25)[number] + rate, corpus)
    return tree.results


def two_runs(folder: Path) -> Path:
    """Returns a results folder with two runs that differ in the learning rate."""
    tree = Tree(folder / "results")
    tree.data()
    tree.run("small", RATES["small"], steps(10), [sample(), sample(HOSTILE, HOSTILE, False)], 1.612)
    tree.run("large", RATES["large"], steps(10), [sample(parses=None)], 1.431)
    return tree.results
