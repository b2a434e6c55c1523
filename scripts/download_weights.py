"""Stage download_weights: an entry of `weights:` -> a model in the layout of Hugging Face.

Reads a folder of this machine, or a model of the hub by way of its cache (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).
Writes config.json, *.safetensors with their index, the tokenizer's files if there are, and manifest.json.
"""

from makelm import cli, links, pretrained


def download_weights(job: cli.Job) -> None:
    """Brings other people's weights here."""
    entry = job.config.weights
    source = pretrained.open_source(entry, job.progress)
    facts = pretrained.describe(source.folder)
    kind = facts["architecture"] or facts["model_type"] or "a model of no name"
    job.say(f"{kind}, {facts['parameters']:,} parameters in {', '.join(facts['dtypes'])}")
    for name, path in source.files.items():
        links.link_or_copy(path, job.staging / name)
    job.publish({"source": entry.source, "revision": source.revision, **facts})


if __name__ == "__main__":
    cli.run("download_weights", __doc__, download_weights)
