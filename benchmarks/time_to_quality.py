"""How long until a model is as good as nanoGPT's recipe for a CPU makes one, on tiny shakespeare by characters.

    python benchmarks/time_to_quality.py --peers <folder with nanoGPT> --text tinyshakespeare.txt

nanoGPT's README has that recipe: 4 layers, 128 wide, context 64, batch 12, 2,000 steps. By turns are run its train.py,
makelm's train_model with the same recipe, and with makelm's own, of no more parameters. Each is timed from the start of
its process to its end, makelm's from that of Snakemake and with no program compiled before, and scored on the whole
validation split in windows of 64 characters. Texts are made ready before.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from recording import Table, record
from turns import WORKERS, forget_programs, python_of_peers

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ROOT / "workflow/presets"
RECIPES = {
    "same": ("nanogpt_shakespeare", [PRESETS / "nanogpt_shakespeare.yaml", ROOT / "benchmarks/nanogpt_cpu.yaml"]),
    "own": ("shakespeare_char", [PRESETS / "shakespeare_char.yaml", ROOT / "benchmarks/own_cpu.yaml"]),
}
STEPS = 2000
WORDS = {"nanoGPT": "nanoGPT's train.py", "same": "makelm, the same recipe", "own": "makelm's own recipe"}
NANOGPT = shlex.split(
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64"
    f" --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters={STEPS} --lr_decay_iters={STEPS} --dropout=0.0"
    " --always_save_checkpoint=True"
)


class NanoGpt:
    """Its checkout, copied, with the text made ready by its own prepare.py."""

    def __init__(self, checkout: Path, python: Path, text: Path | None, folder: Path):
        self.folder, self.python = folder / "nanoGPT", python
        shutil.copytree(checkout, self.folder, ignore=shutil.ignore_patterns(".git"))
        data = self.folder / "data/shakespeare_char"
        self.text = data / "input.txt"
        if text:
            shutil.copyfile(text, self.text)
        subprocess.run([python, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)

    def train(self) -> float:
        """Returns the seconds that its train.py took."""
        started = time.monotonic()
        subprocess.run([self.python, "train.py", *NANOGPT], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def loss(self) -> float:
        """Returns the loss of what it saved last."""
        words = [self.python, WORKERS / "nanogpt_quality.py", self.folder]
        lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        return float(lines[-1])


class Makelm:
    """A folder of the workflow in which all is made that a recipe's train_model reads."""

    def __init__(self, recipe: str, text: Path, folder: Path):
        self.run, files = RECIPES[recipe]
        self.folder = folder / recipe
        self.folder.mkdir()
        source = {"url": text.resolve().as_uri(), "sha256": hashlib.sha256(text.read_bytes()).hexdigest()}
        (self.folder / "text.yaml").write_text(json.dumps({"corpus": {"shakespeare": source}}))
        options = ["--snakefile", ROOT / "Snakefile", "--cores", "2", "--configfile", *files, "text.yaml"]
        self.options = ["--workflow-profile", "none", *options]
        self.snakemake("results/encode_shard/shakespeare/characters/00000.json")

    def snakemake(self, target: str) -> None:
        words = [sys.executable, "-m", "snakemake", target, *self.options]
        done = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(done.stdout)

    def train(self) -> float:
        """Returns the seconds from Snakemake's start to its end with only training to do, compiling included."""
        shutil.rmtree(self.folder / "results/train_model", ignore_errors=True)
        forget_programs(self.folder)
        started = time.monotonic()
        self.snakemake(f"results/train_model/{self.run}/manifest.json")
        return time.monotonic() - started

    def loss(self) -> float:
        """Returns the loss of the whole validation split at the end."""
        return json.loads((self.folder / f"results/train_model/{self.run}/summary.json").read_text())["validation_loss"]


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder with nanoGPT's checkout")
    parser.add_argument("--text", type=Path, help="tiny shakespeare, for who cannot download it")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-bench/bin/python", help="that nanoGPT runs on")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = python_of_peers(options.python)
        peer = NanoGpt(options.peers / "nanoGPT", python, options.text, folder)
        runs = {"nanoGPT": peer} | {recipe: Makelm(recipe, peer.text, folder) for recipe in RECIPES}
        found = [
            {who: {"seconds": run.train(), "loss": run.loss()} for who, run in runs.items()}
            for _ in range(options.rounds)
        ]
    table = Table("", "seconds", "validation loss", "of nanoGPT's time")
    for who in runs:
        seconds, losses = ([turn[who][key] for turn in found] for key in ("seconds", "loss"))
        share = median(turn[who]["seconds"] / turn["nanoGPT"]["seconds"] for turn in found)
        table.add([WORDS[who], f"{median(seconds):.1f}", f"{median(losses):.3f}", f"**{share:.2f}**"])
    record("time_to_quality", found, table)


if __name__ == "__main__":
    main()
