"""How much memory it takes to lay other people's weights out over a mesh.

    python benchmarks/import_memory.py

Writes a GPT-J of 0.6 GB in the layout of Hugging Face, reads it onto 8 simulated devices (fsdp) as train_model
does, and prints the most memory beside the shards themselves, in sizes of the largest tensor. Exits with 1
where that is 2 or more.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import jax
import numpy as np
import psutil
import yaml

from makelm import config, configfile, export, hugging_face, sharding, warm_start, weights
from makelm.hugging_face_layouts import layout
from makelm.model import shapes
from makelm.tensor_file import write

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY, SIZE = 50257, {"n_layers": 8, "d_model": 1024, "n_heads": 8, "n_kv_heads": 8, "d_head": 128, "d_ff": 4096}
INTERVAL = 0.002  # seconds between two looks


def gptj() -> config.Model:
    """Returns the shape of preset gptj_6b at a size that fits here."""
    raw = configfile.merge(
        yaml.safe_load((ROOT / "config.yaml").read_text()),
        yaml.safe_load((ROOT / "workflow/presets/gptj_6b.yaml").read_text()),
    )
    raw["run"]["gptj_6b"] = configfile.merge(raw["run"]["gptj_6b"], {"model": SIZE})
    return configfile.load(raw).run["gptj_6b"].model


class Zeros(dict):
    """Parameters of which each is made when it is asked for."""

    def __init__(self, planned: dict[str, jax.ShapeDtypeStruct]):
        super().__init__(planned)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.full(super().__getitem__(name).shape, 0.5, np.float32)


def write_folder(model: config.Model, folder: Path) -> None:
    """Writes a model whose weights are all alike."""
    made = weights.Weights(model, VOCABULARY, None, "", Zeros(shapes(model, VOCABULARY)))
    write(folder / "model.safetensors", export.tensors(made), "float32", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(export.model_config(made, "float32", None)))


def place(model: config.Model, folder: Path) -> dict[str, jax.Array]:
    """Lays the folder's weights out over all devices."""
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=-1, tensor=1), jax.devices())
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.parameter_sharding(mesh, name, leaf.shape))
        for name, leaf in shapes(model, VOCABULARY).items()
    }
    source = hugging_face.Folder(folder)
    source.check(model, VOCABULARY)
    return warm_start.place(source.parameter, wanted)


def watched(work) -> tuple:
    """Returns what work() does and the most bytes that the process held meanwhile beyond those it began with."""
    process, most, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            info = process.memory_info()
            most = max(most, info.rss - info.shared)  # the file's own pages are the system's
            time.sleep(INTERVAL)

    shared = process.memory_info().shared
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    return result, most - (before - shared)


def main() -> None:
    """Measures and prints."""
    model = gptj()
    assert layout(model).architecture == "GPTJForCausalLM"
    jax.block_until_ready(jax.numpy.zeros(8))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder))
        placed, peak = watched(lambda: place(model, Path(folder)))
    state = sum(shard.data.nbytes for array in placed.values() for shard in array.addressable_shards)
    largest = max(array.nbytes for array in placed.values())
    ratio = (peak - state) / largest
    print(
        f"{sum(array.size for array in placed.values()):,} parameters: shards {state / 1e6:.0f} MB, largest tensor"
        f" {largest / 1e6:.0f} MB, most memory beside the shards {(peak - state) / 1e6:.0f} MB = {ratio:.2f} tensors"
    )
    sys.exit(ratio >= 2)


if __name__ == "__main__":
    main()
