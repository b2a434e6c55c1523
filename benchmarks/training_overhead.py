"""What validations, checkpoints and waiting for data cost the default run's training.

    python benchmarks/training_overhead.py

Trains the default model on random tokens twice, as `make` does. Once blocks of ten steps with a validation in them
alternate with blocks without, once with a checkpoint: the difference of the medians is what one costs, and at the
default cadence it is a share of the time of all steps. Prints a JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import numpy as np
import yaml

from makelm import configfile, malloc, manifest, shards, stages

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY, TOKENS = 2048, 300_000
BLOCK, STEPS = 10, 420


def write_shards(folder: Path) -> None:
    """Writes one shard of random tokens."""
    facts = {"shard": 0, "num_shards": 1, "vocab_size": VOCABULARY, "tokenizer": "none"}
    facts |= {"begin_of_text": None, "end_of_text": VOCABULARY - 1}
    for part in ("train", "valid"):
        with shards.Writer(folder / f"{part}-00000.bin", VOCABULARY) as writer:
            writer.write(np.random.default_rng(0).integers(0, VOCABULARY, TOKENS))
        facts[part] = {"documents": 1, "bytes": TOKENS, "tokens": TOKENS, "largest_id": VOCABULARY - 1}
    content = {"stage": "encode_shard", "facts": facts, "files": manifest.describe_files(folder, frozenset())}
    (folder / "00000.json").write_text(json.dumps(manifest.build(content, {})))


def blocks(settings, data: Path, out: Path, **cadence: int) -> list[dict]:
    """Trains and returns the times of each block of steps."""
    run = settings.run["stdlib"]
    sections = run.model_dump(include=set(stages.TrainModel.model_fields))
    far = {"steps": STEPS, "validate_every": STEPS, "checkpoint_every": STEPS, "checkpoint_minutes": None}
    sections["train"] = sections["train"] | far | {"log_every": BLOCK} | cadence
    keys = json.dumps(sections | {"locked": {}})
    words = ["--config", keys, "--shards", data, "--out", out, "--cores", run.cores, "--log", out / "log.txt"]
    environment = os.environ | {malloc.VARIABLE: malloc.TUNABLES}
    program = ROOT / "scripts/train_model.py"
    subprocess.run([sys.executable, program, *map(str, words)], env=environment, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]


def costs(found: list[dict]) -> tuple[float, float]:
    """Returns (seconds of a plain step, seconds that what every other block has costs)."""
    found = found[2:-1]  # the first ones warm up, the last one validates and saves
    with_it = [row["seconds"] for row in found if (row["step"] // BLOCK) % 2 == 1]  # the line comes before it
    without = [row["seconds"] for row in found if (row["step"] // BLOCK) % 2 == 0]
    return median(without) / BLOCK, median(with_it) - median(without)


def main() -> None:
    """Measures and prints."""
    settings = configfile.load(yaml.safe_load((ROOT / "config.yaml").read_text()))
    train = settings.run["stdlib"].train
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_shards(data)
        validated = blocks(settings, data, data / "validated", validate_every=2 * BLOCK)
        saved = blocks(settings, data, data / "saved", checkpoint_every=2 * BLOCK)
    step, validation = costs(validated)
    other_step, checkpoint = costs(saved)
    waited = sum(row["waiting_for_data"] for row in validated) / sum(row["seconds"] for row in validated)
    print(
        json.dumps(
            {
                "step_seconds": round(step, 4),
                "validation_seconds": round(validation, 3),
                "validation_percent": round(100 * validation / (step * train.validate_every), 2),
                "checkpoint_seconds": round(checkpoint, 3),
                "checkpoint_percent": round(100 * checkpoint / (other_step * train.checkpoint_every), 2),
                "waiting_for_data_percent": round(100 * waited, 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
