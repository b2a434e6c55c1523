"""Weights of other people: what is taken of a folder or of the hub, how, and what is refused in one line."""

import errno
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import hub
import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from makelm import configfile, inspection, links, manifest, pretrained, source_files
from makelm.config_weights import HubWeights, LocalWeights
from makelm.errors import UserError
from makelm.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts/download_weights.py"
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2}
GPT2 |= {"n_positions": 16, "vocab_size": 32}
SETTINGS = json.dumps(GPT2).encode()
SHARDS = {
    "model-00001-of-00002.safetensors": save({"a": np.ones((4, 8), np.float32)}),
    "model-00002-of-00002.safetensors": save({"b": np.ones(3, np.float16)}),
}
SINGLE = {"config.json": SETTINGS, "tokenizer.json": b"{}", "model.safetensors": save({"a": np.ones(5, np.float32)})}
NOT_TAKEN = {
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"raise SystemExit",
    "onnx/model.safetensors": b"of another form",
    "adapter_model.safetensors": b"of another model",
}


def index(*names: str) -> bytes:
    return json.dumps(
        {"metadata": {}, "weight_map": {f"tensor{number}": name for number, name in enumerate(names)}}
    ).encode()


SHARDED = {"config.json": SETTINGS, "model.safetensors.index.json": index(*SHARDS), **SHARDS}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder and returns it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def local(folder: Path) -> pretrained.Source:
    return pretrained.open_source(LocalWeights(source="local", path=str(folder)), quiet())


def quiet() -> Progress:
    return Progress("test", io.StringIO(), None)


# ---- folders of this machine


@pytest.mark.parametrize("files", [SINGLE, SHARDED], ids=["one file", "two files"])
def test_of_a_folder_the_model_is_taken_and_nothing_else(tmp_path, files):
    lay(tmp_path, files | NOT_TAKEN)
    source = local(tmp_path)
    assert set(source.files) == set(files) and source.revision is None


def test_it_is_described_by_its_headers(tmp_path):
    assert pretrained.describe(lay(tmp_path, SHARDED)) == {
        "architecture": "GPT2LMHeadModel",
        "model_type": "gpt2",
        "parameters": 35,
        "dtypes": ["F16", "F32"],
        "bytes": sum(map(len, SHARDS.values())),
    }


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (None, r"^weights\.path: no such folder: "),
        ({"model.safetensors": SINGLE["model.safetensors"]}, r"^weights\.path: .* has no config\.json$"),
        (
            {"config.json": b"{}", "pytorch_model.bin": b""},
            r"has no model\.safetensors; pickle files .* are never loaded",
        ),
        ({k: v for k, v in SHARDED.items() if "00002-of" not in k}, r"has no model-00002-of-00002\.safetensors"),
        ({"config.json": b"{}", pretrained.INDEX: b"[]"}, r"index\.json is damaged or no JSON object"),
        ({"config.json": b"{}", pretrained.INDEX: b"{}"}, r"index\.json is no index of safetensors files"),
        ({"config.json": b"{}", pretrained.INDEX: index("a.safetensors", "b.bin")}, "no index of safetensors files"),
        ({"config.json": b"{}", pretrained.INDEX: index("../a.safetensors")}, "no index of safetensors files"),
        (SINGLE | {"config.json": b"{"}, r"config\.json is damaged or no JSON object"),
        (SINGLE | {"model.safetensors": SINGLE["model.safetensors"][:-1]}, r"model\.safetensors is damaged: \d+ bytes"),
        (SINGLE | {"model.safetensors": b"a pickle of some kind"}, "damaged or no safetensors file"),
    ],
)
def test_what_holds_no_model_is_refused_in_one_line(tmp_path, files, line):
    folder = tmp_path / "model" if files is None else lay(tmp_path / "model", files)
    with pytest.raises(UserError, match=line) as caught:
        pretrained.describe(local(folder).folder)
    assert "\n" not in str(caught.value)


def test_only_the_weights_that_a_run_starts_from_must_exist(tmp_path):
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    raw["weights"] = {
        "mine": {"source": "local", "path": str(tmp_path / "mine")},
        "hers": {"source": "huggingface", "repository": "openai-community/gpt2", "revision": None},
    }
    assert source_files.of_weights(configfile.load(raw)) == {"mine": []}
    raw["run"]["stdlib"]["start"] = {"weights": "mine", "run": None, "optimizer": "fresh", "schedule": "fresh"}
    with pytest.raises(UserError, match=r"^config: weights\.mine\.path: no such folder: "):
        source_files.of_weights(configfile.load(raw))
    lay(tmp_path / "mine", SINGLE)
    assert source_files.of_weights(configfile.load(raw)) == {"mine": [str(tmp_path / "mine" / name) for name in SINGLE]}


# ---- links


def test_a_file_is_linked_and_not_there_twice(tmp_path):
    lay(tmp_path, {"blobs/abc": b"content"})
    (tmp_path / "link").symlink_to("blobs/abc")
    links.link_or_copy(tmp_path / "link", tmp_path / "here")
    assert (tmp_path / "here").samefile(tmp_path / "blobs/abc") and not (tmp_path / "here").is_symlink()


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM])
def test_where_there_are_no_links_it_is_copied(tmp_path, monkeypatch, reason):
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", refuse)
    lay(tmp_path, {"original": b"content"})
    links.link_or_copy(tmp_path / "original", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"content"
    assert not (tmp_path / "here").samefile(tmp_path / "original")


# ---- the hub


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub with a model of one file and one of two, and an empty cache."""
    with hub.serve() as new:
        hub.use(new, monkeypatch, str(tmp_path / "cache"))
        new.models = {"org/one": SINGLE | NOT_TAKEN, "org/two": SHARDED | NOT_TAKEN}
        new.models["org/pickled"] = {"config.json": SETTINGS, "pytorch_model.bin": b"a pickle"}
        new.models["org/empty"] = {"README.md": b"soon"}
        new.gated = {"org/gated"}
        yield new


def from_hub(repository: str, revision: str | None = None) -> pretrained.Source:
    entry = HubWeights(source="huggingface", repository=repository, revision=revision)
    return pretrained.open_source(entry, quiet())


@pytest.mark.parametrize(("name", "files"), [("org/one", SINGLE), ("org/two", SHARDED)])
@pytest.mark.parametrize("revision", [None, hub.COMMIT])
def test_of_the_hub_only_what_is_taken_is_fetched(server, name, files, revision):
    source = from_hub(name, revision)
    assert sorted(server.asked) == sorted(files), "each once, and no pickle, code or other model"
    assert source.revision == hub.COMMIT
    assert {name: path.read_bytes() for name, path in source.files.items()} == files


def test_what_is_in_the_cache_needs_no_network(server, monkeypatch):
    import huggingface_hub.constants as constants

    fetched = from_hub("org/two")
    server.asked.clear()
    assert from_hub("org/two") == fetched and not server.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert from_hub("org/two") == fetched
    fetched.files["model-00002-of-00002.safetensors"].unlink()
    with pytest.raises(UserError, match="org/two is not whole in the hub's cache, and the hub is out of reach"):
        from_hub("org/two")
    with pytest.raises(UserError, match=r"org/one is not whole in the hub's cache, .* offline mode is enabled"):
        from_hub("org/one")


@pytest.mark.parametrize(
    ("name", "revision", "line"),
    [
        ("org/none", None, r"^weights\.repository: org/none is not on the hub, or private; .* HF_TOKEN$"),
        ("org/gated", None, r"^weights\.repository: org/gated is gated: accept its terms at huggingface\.co/org/gated"),
        ("org/one", "v9", r"^weights\.revision: org/one has no revision v9$"),
        ("org/empty", None, r"^weights\.repository: org/empty has no config\.json$"),
        ("org/pickled", None, r"org/pickled has neither model\.safetensors nor .*pickle files .* are never loaded"),
        ("one/..", None, r"^weights\.repository: one/\.\. cannot be downloaded: "),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, name, revision, line):
    with pytest.raises(UserError, match=line) as caught:
        from_hub(name, revision)
    assert "\n" not in str(caught.value) and not {"pytorch_model.bin"} & set(server.asked)


LLAMA = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 32}
LLAMA |= {"intermediate_size": 16, "max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (LLAMA | {"model_type": "mistral"}, "model_type is mistral; makelm reads gpt2, gptj, llama, qwen3$"),
        (LLAMA | {"attention_bias": True}, "attention_bias is true; makelm computes false only$"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rotary positions are not the default ones"),
    ],
)
def test_a_model_that_is_not_computed_is_refused_before_its_weights_are_fetched(server, tmp_path, settings, line):
    files = SINGLE | {"config.json": json.dumps(settings).encode()}
    server.models["org/other"] = files
    with pytest.raises(UserError, match=rf"config\.json: {line}"):
        from_hub("org/other")
    assert "config.json" in server.asked and "model.safetensors" not in server.asked
    with pytest.raises(UserError, match=rf"config\.json: {line}"):
        local(lay(tmp_path / "model", files))


def test_a_hub_that_cannot_be_reached_is_one_line(server, monkeypatch):
    import huggingface_hub.constants as constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(UserError, match=r"out of reach: .*refused") as caught:
            from_hub("org/one")
    assert "\n" not in str(caught.value)


# ---- the stage


def download(out: Path, entry: dict, **environment: str) -> subprocess.CompletedProcess:
    """Runs the stage as a program."""
    keys = json.dumps({"locked": {}, "weights": entry})
    command = [sys.executable, str(SCRIPT), "--config", keys, "--out", str(out)]
    return subprocess.run(command, env=os.environ | environment, text=True, capture_output=True)


def test_the_stage_publishes_a_folder_and_again_another_one(tmp_path):
    out, entry = tmp_path / "out", {"source": "local", "path": str(tmp_path / "model")}
    lay(tmp_path / "model", SHARDED)
    for files in (SHARDED, SHARDED, SINGLE):  # the second time the links are there already
        if files is SINGLE:
            (tmp_path / "model" / pretrained.INDEX).unlink()
            lay(tmp_path / "model", SINGLE)
        done = download(out, entry)
        assert done.returncode == 0 and not done.stderr, done.stderr
        content = manifest.read(out / "manifest.json")["content"]
        assert {path.name for path in out.glob("[!.]*")} >= {"manifest.json", *files}
        assert set(content["files"]) == set(files)
        assert len(list(out.glob("*.safetensors"))) == sum(name.endswith(".safetensors") for name in files)
        assert all((out / name).samefile(tmp_path / "model" / name) for name in files)
    assert content["facts"]["source"] == "local" and content["facts"]["architecture"] == "GPT2LMHeadModel"
    about = inspection.inspect(out)["facts"]
    assert about["tensors"] == {"a": {"shape": [5], "dtype": "F32", "bytes": 20}} and about["model_type"] == "gpt2"
    manifest.check_file(out, content, "model.safetensors")
    with (tmp_path / "model/model.safetensors").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(UserError, match="its sha256 is not the one in its manifest"):
        manifest.check_file(out, content, "model.safetensors")


def test_the_stage_brings_a_model_of_the_hub_by_the_hubs_own_variables(server, tmp_path):
    entry = {"source": "huggingface", "repository": "org/two", "revision": "main"}
    ours = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    done = download(tmp_path / "out", entry, **ours)
    assert done.returncode == 0 and not done.stderr, done.stderr
    facts = manifest.read(tmp_path / "out/manifest.json")["content"]["facts"]
    assert (facts["source"], facts["revision"], facts["parameters"]) == ("huggingface", hub.COMMIT, 35)
    offline = download(tmp_path / "out", {**entry, "repository": "org/one"}, **ours, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and offline.stderr.count("\n") == 1
    assert "weights.repository: org/one is not whole in the hub's cache" in offline.stderr
