"""Stage export_model: weights + tokenizer -> a folder that Hugging Face's transformers loads.

Writes model.safetensors, config.json, generation_config.json, tokenizer.json and tokenizer_config.json.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from makelm import cli, export, tokenizer, tokenizer_export, weights


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of its tokenizer")


def export_model(job: cli.Job) -> None:
    """Writes a run in the Hugging Face layout."""
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    trained = weights.open_run(job.args.model, job.read_input)
    encoding = tokenizer.load(job.args.tokenizer)
    weights.check_tokenizer(trained, encoding.digest, str(job.args.tokenizer))
    dtype = job.config.export.dtype
    tensors = {name: np.asarray(value, jnp.dtype(dtype)) for name, value in export.tensors(trained).items()}
    save_file(tensors, job.staging / "model.safetensors", metadata={"format": "pt"})
    write_json(job, "config.json", export.model_config(trained, dtype))
    write_json(job, "generation_config.json", export.generation_config(trained))
    for name, content in tokenizer_export.hugging_face_files(encoding).items():
        write_json(job, name, content)
    job.publish({"architecture": export.architecture(trained.model)})


def write_json(job: cli.Job, name: str, content: dict) -> None:
    """Writes one file of the layout."""
    (job.staging / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run("export_model", __doc__, add_arguments, export_model)
