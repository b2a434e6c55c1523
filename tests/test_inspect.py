"""inspect_artifact: every kind of artifact says what it is and where it comes from."""

import json
import struct

import pytest
from checkout import Checkout

CHAIN = ["download_corpus", "train_tokenizer", "encode_shard", "train_model"]


@pytest.fixture
def look(built: Checkout):
    """Inspects something below results/ and returns the JSON object."""

    def inspect(path: str) -> dict:
        done = built.python("scripts/inspect_artifact.py", f"results/{path}", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return inspect


def first(built: Checkout, pattern: str) -> str:
    """Returns the first path below results/ that matches."""
    return min(built.results.glob(pattern)).relative_to(built.results).as_posix()


def test_a_token_shard(look, built):
    about = look(first(built, "encode_shard/*/*/valid-00000.bin"))
    facts = about["facts"]
    assert about["kind"] == "token shard"
    assert (facts["magic"], facts["version"], facts["type"]) == (20240520, 1, "uint16")
    assert facts["bytes"] == 1024 + 2 * facts["tokens"]
    assert len(facts["first_tokens"]) == 64 and facts["first_text"].isprintable() is False
    assert [entry["stage"] for entry in about["made_from"]] == CHAIN[:2]


def test_a_document_shard(look, built):
    about = look(first(built, "download_corpus/*/valid-00000.jsonl.zst"))
    assert about["kind"] == "document shard"
    assert about["facts"]["documents"] >= len(about["facts"]["first_ids"]) > 0
    assert about["made_from"] == []


def test_a_tokenizer(look, built):
    about = look(first(built, "train_tokenizer/*"))
    assert about["kind"] == "tokenizer"
    assert (about["facts"]["kind"], about["facts"]["vocab_size"]) == ("bpe", 512)


def test_weights(look):
    about = look("train_model/tiny/weights/model.safetensors")
    facts = about["facts"]
    assert about["kind"] == "weights"
    assert facts["tensors"]["embedding_VD"] == {"shape": [512, 32], "dtype": "F32", "bytes": 512 * 32 * 4}
    assert facts["parameters"] * 4 == sum(tensor["bytes"] for tensor in facts["tensors"].values())
    assert facts["model"]["model"]["n_layers"] == 2


def test_checkpoints(look):
    (identity,) = look("train_model/tiny/checkpoints")["facts"]["identities"].items()
    trained = look("train_model/tiny")
    assert identity[0] == trained["manifest"]["content"]["facts"]["identity"]
    assert max(identity[1]["steps"]) == 30 and identity[1]["unfinished"] == []


def test_a_step_is_a_plain_number(look, built):
    (odd,) = (path / "³" for path in (built.results / "train_model/tiny/checkpoints").iterdir())
    odd.mkdir()
    try:
        (identity,) = look("train_model/tiny/checkpoints")["facts"]["identities"].values()
    finally:
        odd.rmdir()
    assert max(identity["steps"]) == 30


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("encode_shard/*/*", "encode_shard"),
        ("train_model/tiny/weights", "train_model"),
        ("train_model/tiny/checkpoints", "train_model"),
        ("train_model/tiny/checkpoints/*", "train_model"),
    ],
)
def test_a_folder_of_shards_or_within_a_run_is_traced_as_well(look, built, folder, stage):
    about = look(first(built, folder))
    assert about["manifest"]["content"]["stage"] == stage
    assert [entry["stage"] for entry in about["made_from"]][:2] == CHAIN[:2] and about["no_longer_there"] == []


def test_a_folder_that_no_stage_made_has_no_manifest(look):
    assert "manifest" not in look("train_model") and "manifest" not in look("")


@pytest.mark.parametrize("path", ["sample_model/tiny", "sample_model/tiny/samples.jsonl", "write_report/report.html"])
def test_ancestry_goes_back_to_the_corpus(look, path):
    about = look(path)
    stages = [entry["stage"] for entry in about["made_from"]]
    assert set(stages) >= set(CHAIN)
    assert stages[0] == "download_corpus" and about["no_longer_there"] == []


def test_an_ancestor_that_is_gone_is_said_to_be_gone(look, built):
    (manifest,) = built.results.glob("train_tokenizer/*/manifest.json")
    content = manifest.read_text()
    hidden = manifest.with_name("hidden")
    manifest.rename(hidden)
    try:
        about = look("sample_model/tiny")
        said = built.python("scripts/inspect_artifact.py", "results/sample_model/tiny").stdout
    finally:
        hidden.rename(manifest)
    digest = json.loads(content)["digest"]
    assert {gap["digest"] for gap in about["no_longer_there"]} == {digest}
    assert f"tokenizer of sample_model/tiny/manifest.json  {digest[:12]}: no longer there" in said


def test_the_text_is_for_people(built):
    said = built.python("scripts/inspect_artifact.py", "results/train_model/tiny/weights/model.safetensors").stdout
    assert "embedding_VD: shape [512, 32], dtype F32, bytes 65,536 (65.5 kB)" in said
    assert "made by train_model" in said and "download_corpus/" in said


def tensors(**entries) -> bytes:
    """Returns a safetensors file of four bytes with this header."""
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


X = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NONE = "x.safetensors is damaged or no safetensors file"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("nothing", None, "nothing is not there"),
        ("x.bin", b"no header", "x.bin is no token shard"),
        ("x.safetensors", b"\xff" * 20, "x.safetensors is damaged or no safetensors file"),
        ("x.jsonl", b'{"a": 1}\n{\n', "x.jsonl is damaged or no lines of JSON"),
        ("x.jsonl", b"1\n2\n3\n4\n\xff\n", "x.jsonl is damaged or no lines of JSON"),
        ("x.jsonl", b"[" * 10_000, "x.jsonl is damaged or no lines of JSON"),
        ("x.safetensors", tensors(x=X | {"shape": [-1]}), NONE),
        ("x.safetensors", tensors(x=X | {"shape": [2]}), NONE),
        ("x.safetensors", tensors(x=X | {"dtype": "F99"}), NONE),
        ("x.safetensors", tensors(x=X, __metadata__=5), NONE),
        (
            "x.safetensors",
            tensors(x=X, __metadata__={"makelm": "{bad"}),
            "what makelm says in it of the model is no JSON",
        ),
        ("x.jsonl.zst", b"no frame", "x.jsonl.zst is damaged or no document shard"),
    ],
)
def test_what_it_cannot_read_is_one_line(built, tmp_path, name, content, line):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = built.python("scripts/inspect_artifact.py", str(path))
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1
