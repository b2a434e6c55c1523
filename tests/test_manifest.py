"""Manifests: one digest for one content, and artifacts that stand there whole or not at all."""

import itertools
import json
import shutil
from pathlib import Path

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
    for damage in (json.dumps(written)[:-9], "", "[]", "{}", "null", '{"version": 1, "content": 2}'):
        path.write_text(damage)
        with pytest.raises(ValueError, match="damaged"):
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
    assert there(out) == ["manifest.json", "weights/new.bin"]
    assert not staging.exists()


def test_all_is_on_disk_before_the_manifest_has_its_name_and_the_names_after(tmp_path, monkeypatch):
    out, synced = tmp_path / "out", []
    out.mkdir()
    staging = stage(out, {"weights/new.bin": "new"})
    monkeypatch.setattr(manifest, "sync", lambda path: synced.append((path, (out / "manifest.json").exists())))
    manifest.publish(staging, out, "manifest.json")
    names = ("manifest.json", "weights", "weights/new.bin")
    of_artifact = [each for each in synced if not each[0].name.startswith(".manifest.files")]
    assert of_artifact == [*((staging / name, False) for name in names), (out, True)]


def there(out: Path) -> list[str]:
    """Returns the files of a folder, but for the list of those that are an artifact's."""
    names = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in names if name != ".manifest.files")


def stage(out: Path, files: dict[str, str]) -> Path:
    """Returns a staging folder with some files and their manifest."""
    staging = out / ".partial"
    shutil.rmtree(staging, ignore_errors=True)
    for name, text in files.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_text(text)
    content = {"files": manifest.describe_files(staging, frozenset())}
    (staging / "manifest.json").write_text(json.dumps(manifest.build(content, {})))
    return staging


OLD = dict.fromkeys(("same.txt", "old.txt", "old/a.txt", "both/a.txt", "both/b.txt", "file", "way/a.txt"), "old")
NEW = dict.fromkeys(("same.txt", "new.txt", "both/a.txt", "file/a.txt", "way"), "new")


@pytest.mark.parametrize("removed", [False, True], ids=["with its manifest", "whose manifest Snakemake removed"])
def test_nothing_stays_of_the_artifact_before(tmp_path, removed):
    manifest.publish(stage(tmp_path, OLD), tmp_path, "manifest.json")
    for name in ("old/mine.txt", ".download/part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not the artifact's")
    if removed:
        (tmp_path / "manifest.json").unlink()
    manifest.publish(stage(tmp_path, NEW), tmp_path, "manifest.json")
    assert there(tmp_path) == sorted([*NEW, "manifest.json", "old/mine.txt", ".download/part"])


def test_a_file_that_both_have_by_hard_links_is_published(tmp_path):
    (tmp_path / "source").write_text("linked")
    for _ in range(2):
        staging = stage(tmp_path / "out", {"other.txt": "x"})
        (staging / "a.bin").hardlink_to(tmp_path / "source")
        manifest.publish(staging, tmp_path / "out", "manifest.json")
    assert there(tmp_path / "out") == ["a.bin", "manifest.json", "other.txt"]


def test_a_kill_at_any_moment_leaves_an_artifact_or_none_and_no_old_file_for_good(tmp_path, monkeypatch):
    kinds = ("unlink", "rename", "replace", "write_text", "rmdir")
    real = {kind: getattr(Path, kind) for kind in kinds}
    left = 0

    def deadly(kind):
        def act(path, *words, **options):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real[kind](path, *words, **options)

        return act

    for moment in itertools.count():
        out = tmp_path / str(moment)
        manifest.publish(stage(out, OLD), out, "manifest.json")
        staging, left = stage(out, NEW), moment
        with monkeypatch.context() as patched:
            for kind in kinds:
                patched.setattr(Path, kind, deadly(kind))
            try:
                manifest.publish(staging, out, "manifest.json")
                break
            except KeyboardInterrupt:
                pass
        if (out / "manifest.json").exists():
            content = manifest.read(out / "manifest.json")["content"]
            assert set(content["files"]) in (set(OLD), set(NEW))
            for name in content["files"]:
                manifest.check_file(out, {"stage": "x", **content}, name)
        manifest.publish(stage(out, NEW), out, "manifest.json")
        assert there(out) == sorted([*NEW, "manifest.json"])
    assert moment > 10


def test_while_publishing_no_manifest_stands_beside_files_it_does_not_describe(tmp_path, monkeypatch):
    out = tmp_path / "out"
    staging = out / ".partial"
    staging.mkdir(parents=True)
    (out / "manifest.json").write_text("old")
    for name in ("a.bin", "manifest.json"):
        (staging / name).write_text("new")
    moved = []
    rename = manifest.Path.rename

    def watched(self, target):
        moved.append((self.name, (out / "manifest.json").exists()))
        return rename(self, target)

    monkeypatch.setattr(manifest.Path, "rename", watched)
    manifest.publish(staging, out, "manifest.json")
    assert moved == [("a.bin", False), ("manifest.json", False)]


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
