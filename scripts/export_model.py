"""Stage export_model: weights + tokenizer -> a folder that Hugging Face's transformers loads.

Writes model.safetensors, config.json, generation_config.json, the tokenizer's files and, in parity.json, how far
the logits of these files are from the model's. A model that no class of transformers computes is handed on in makelm's
own layout; config.json then says why.
"""

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path

import jax

from makelm import cli, export, parity, tensor_file, tokenizer, tokenizer_export, weights
from makelm.hugging_face_layouts import NoClass

TENSORS = "model.safetensors"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of its tokenizer")


def export_model(job: cli.Job) -> None:
    """Writes a run in the Hugging Face layout."""
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    trained = weights.open_run(job.args.model, job.read_input, weights.open_file)
    encoding = tokenizer.load(job.args.tokenizer)
    weights.check_tokenizer(trained, encoding.digest, str(job.args.tokenizer))
    try:
        found = write_layout(job, trained, encoding.first)
    except NoClass as error:
        found = write_own(job, trained, str(error))
    write_json(job, "parity.json", found)
    write_json(job, "generation_config.json", export.generation_config(trained, encoding.first))
    for name, content in tokenizer_export.hugging_face_files(encoding, trained.model.context_length).items():
        (job.staging / name).write_bytes(content)
    if encoding.kind == "sentencepiece":
        job.say(f"{encoding.FILE} is SentencePiece's own: read it with sentencepiece, AutoTokenizer does not")
    job.publish({"architecture": found["architecture"]}, measured=("parity.json",))


def write_layout(job: cli.Job, trained: weights.Weights, first: int | None) -> dict:
    """Writes the tensors and config.json, and returns how they compare with the model.

    Raises NoClass where they do not compute what it does.
    """
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be in use, and rounds its products
    dtype = job.config.export.dtype
    tensor_file.write(job.staging / TENSORS, export.tensors(trained), dtype, {"format": "pt"})
    write_json(job, "config.json", export.model_config(trained, dtype, first))
    found = parity.measure(job.staging, trained, dtype)
    job.say(
        f"{found['architecture']} in {dtype}: logits of {found['tokens']} tokens are within"
        f" {found['max_logit_difference']:.1e} of the model's (the largest is {found['largest_logit']:.3g})"
    )
    parity.check(found)
    return found


def write_own(job: cli.Job, trained: weights.Weights, reason: str) -> dict:
    """Hands the weights on as they are, with a config.json that says why, and returns that there is no comparison."""
    shutil.copyfile(job.args.model / weights.FILE, job.staging / TENSORS)
    own = {"architectures": None, "reason": reason, "model": trained.model.model_dump()}
    write_json(job, "config.json", own)
    job.say(f"{reason}; the weights are handed on in makelm's own layout")
    return {"architecture": None}


def write_json(job: cli.Job, name: str, content: dict) -> None:
    """Writes one file of the layout."""
    (job.staging / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run("export_model", __doc__, export_model, add_arguments)
