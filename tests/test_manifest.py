"""Manifests: one digest for one content, and artifacts that stand there whole or not at all."""

import json

import pytest

from makelm import manifest
from makelm.errors import UserError

CONTENT = {"stage": "toy", "files": {}, "facts": {"é": 1.5}}


def test_canonical_json_depends_on_the_value_alone():
    assert manifest.canonical({"b": 1, "a": [1.0, None]}) == '{"a":[1.0,null],"b":1}'
    assert manifest.digest({"a": 1, "b": 2}) == manifest.digest({"b": 2, "a": 1})
    assert manifest.digest({"a": 1, "b": 2}) != manifest.digest({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        manifest.canonical(float("nan"))


def test_the_digest_is_that_of_the_content_and_not_of_how_it_was_made():
    one, other = manifest.build(CONTENT, {"seconds": 1}), manifest.build(CONTENT, {"seconds": 2})
    assert one["digest"] == other["digest"] == manifest.digest(CONTENT)


def test_a_manifest_is_read_as_it_was_written_and_a_damaged_one_is_not(tmp_path):
    path = tmp_path / "manifest.json"
    written = manifest.build(CONTENT, {"host": "here"})
    path.write_text(json.dumps(written))
    assert manifest.read(path) == written
    path.write_text(json.dumps(written).replace("1.5", "1.6"))
    with pytest.raises(ValueError, match="damaged"):
        manifest.read(path)
    path.write_text(json.dumps({**written, "version": 99}))
    with pytest.raises(ValueError, match="another version"):
        manifest.read(path)
    path.write_text(json.dumps(written)[:-9])
    with pytest.raises(ValueError, match="Expecting"):
        manifest.read(path)


def test_files_are_described_by_size_and_sha256_but_measured_ones_by_name_only(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"abc")
    (tmp_path / "timings.jsonl").write_text("0.1\n")
    assert manifest.describe_files(tmp_path, frozenset({"timings.jsonl"})) == {
        "timings.jsonl": None,
        "weights/w.bin": {
            "bytes": 3,
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        },
    }


def test_publishing_replaces_what_is_there_and_leaves_no_staging(tmp_path):
    out = tmp_path / "out"
    staging = out / ".partial"
    (out / "weights").mkdir(parents=True)
    (out / "weights" / "old.bin").write_text("old")
    (staging / "weights").mkdir(parents=True)
    (staging / "weights" / "new.bin").write_text("new")
    (staging / "manifest.json").write_text("{}")
    manifest.publish(staging, out, "manifest.json")
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == ["manifest.json", "weights/new.bin"]
    assert not staging.exists()


def test_while_publishing_no_manifest_stands_beside_files_it_does_not_describe(tmp_path, monkeypatch):
    out = tmp_path / "out"
    staging = out / ".partial"
    staging.mkdir(parents=True)
    (out / "manifest.json").write_text("old")
    for name in ("a.bin", "manifest.json"):
        (staging / name).write_text("new")
    there = []
    rename = manifest.Path.rename

    def watched(self, target):
        there.append((self.name, (out / "manifest.json").exists()))
        return rename(self, target)

    monkeypatch.setattr(manifest.Path, "rename", watched)
    manifest.publish(staging, out, "manifest.json")
    assert there == [("a.bin", False), ("manifest.json", False)]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("ab"), "2 bytes instead of 3"),
        (lambda path: path.write_text("abd"), "its sha256 is not the one in its manifest"),
    ],
)
def test_a_file_that_is_not_the_described_one_is_refused(tmp_path, damage, expected):
    path = tmp_path / "a.bin"
    path.write_text("abc")
    content = {"stage": "toy", "files": manifest.describe_files(tmp_path, frozenset())}
    manifest.check_file(tmp_path, content, "a.bin")
    damage(path)
    with pytest.raises(UserError, match=expected):
        manifest.check_file(tmp_path, content, "a.bin")
