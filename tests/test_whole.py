"""Manifests that say more than is there."""

from pathlib import Path

import pytest

from makelm import manifest, whole

FILES = {"a.txt": b"one", "inner/b.bin": b"two!", "timings.jsonl": b"{}"}


def put(place: Path) -> Path:
    """Writes an artifact whose manifest stands there; of its timings there is no digest."""
    for name, content in FILES.items():
        (place.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (place.parent / name).write_bytes(content)
    files = manifest.describe_files(place.parent, frozenset({"timings.jsonl"}))
    place.write_text(manifest.canonical(manifest.build({"files": files}, {})))
    return place


@pytest.fixture
def places(tmp_path) -> list[Path]:
    names = ("write_report/manifest.json", "train_model/a/manifest.json", "evaluate_task/a/t/manifest.json")
    return [put(tmp_path / name) for name in (*names, "encode_shard/c/t/00000.json")]


def test_what_is_there_is_not_spoken_of(places, tmp_path):
    assert list(whole.untrue(tmp_path)) == []
    assert list(whole.untrue(tmp_path / "none")) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_makes_its_own_manifest_untrue(places, tmp_path, name):
    for place in places:
        gone = place.parent / name
        content = gone.read_bytes()
        gone.unlink()
        assert list(whole.untrue(tmp_path)) == [(str(place), f"{gone} is missing")]
        gone.write_bytes(content)


def test_a_file_that_was_cut_short(places, tmp_path):
    (places[1].parent / "inner/b.bin").write_bytes(b"tw")
    assert list(whole.untrue(tmp_path)) == [(str(places[1]), f"{places[1].parent}/inner/b.bin is cut short")]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b"\xff"])
def test_a_damaged_manifest(places, tmp_path, damage):
    places[0].write_bytes(damage)
    assert list(whole.untrue(tmp_path)) == [(str(places[0]), f"{places[0]} is damaged")]


def test_a_folder_in_place_of_a_manifest_and_a_file_in_place_of_a_folder(places, tmp_path):
    places[0].unlink()
    places[0].mkdir()
    (tmp_path / "plan_run").touch()
    assert list(whole.untrue(tmp_path)) == [(str(places[0]), f"{places[0]} is damaged")]


def test_what_stands_deeper_is_no_manifest_of_a_stage(places, tmp_path):
    """Checkpoints have files of their own by that name."""
    deep = places[1].parent / "checkpoints/identity/manifest.json"
    deep.parent.mkdir(parents=True)
    deep.write_text("{")
    assert list(whole.untrue(tmp_path)) == []
