"""gc: what no configured run uses is listed and, asked for, deleted; everything else is left alone."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from checkout import ENVIRONMENT, ROOT, TINY, Checkout

from makelm import artifacts, closure, configfile, garbage, locks, manifest
from makelm.config import Config

LOCK = (ROOT / "uv.lock").read_text()
CURRENT, OTHER, PUBLISHED, NAMED = ("0123456789abcde" + digit for digit in "0123")


def settings(override: str = "") -> Config:
    """Returns the configuration of the tiny preset."""
    raw = {}
    for name in ("config.yaml", TINY):
        raw = configfile.merge(raw, yaml.safe_load((ROOT / name).read_text()))
    return configfile.load({**raw, "set": override})


def make(results: Path, record: str, files: tuple[str, ...] = ("made.txt",), **facts) -> Path:
    """Makes an artifact with a manifest where a stage would; returns its folder."""
    path = results / record
    for name in files:
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_text("x" * 1000)
    content = {"stage": record.split("/")[0], "files": {name: {"bytes": 1000} for name in files}, "facts": facts}
    path.write_text(json.dumps(manifest.build(content, {})))
    return path.parent


def make_whole(results: Path, configured: list[artifacts.Artifact]) -> None:
    """Makes artifacts without files that verify takes for what their stages made."""
    digests = {}
    for artifact in configured:
        content = {
            "stage": artifact.stage,
            "config": artifact.keys,
            "inputs": {name: digests[place] for name, place in artifact.inputs.items()},
            "code": closure.closure(artifact.stage).digest(),
            "packages": artifact.keys["locked"],
            "files": {},
            "facts": {},
        }
        built = manifest.build(content, {})
        digests[artifact.manifest] = built["digest"]
        (results / artifact.manifest).parent.mkdir(parents=True, exist_ok=True)
        (results / artifact.manifest).write_text(json.dumps(built))


def make_checkpoint(results: Path, run: str, identity: str) -> Path:
    """Makes a folder of checkpoints."""
    folder = results / "train_model" / run / "checkpoints" / identity
    (folder / "4").mkdir(parents=True)
    (folder / "4" / "state").write_text("x" * 500)
    return folder


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "DEAD", 0.3)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def collect(results: Path, delete: bool = False, override: str = "") -> list[str]:
    """Returns the lines about things, relative to results/, with those about what was left alone."""
    found = garbage.find(settings(override), LOCK, results)
    said = list(found.notes)
    garbage.collect(found.things, results, delete, said.append)
    return [line.replace(f"{results}/", "") for line in said]


def paths(results: Path) -> list[str]:
    """Returns all files and links."""
    every = (path for path in results.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(path.relative_to(results).as_posix() for path in every)


def test_what_a_download_left_goes_unless_the_next_run_goes_on_from_it(results):
    for corpus in ("tiny", "done", "stdlib"):
        (results / "download_corpus" / corpus / ".download").mkdir(parents=True)
        (results / "download_corpus" / corpus / ".download" / "sum").write_text("x" * 100)
    assert collect(results) == [
        f"download_corpus/{corpus}/.download: 100 B, left of a download" for corpus in ("done", "stdlib")
    ]
    make(results, "download_corpus/tiny/manifest.json")
    (results / "download_corpus/done/.download").rename(results / "download_corpus/done/.deleting-.download")
    assert len(collect(results, delete=True)) == 3
    assert paths(results) == ["download_corpus/tiny/made.txt", "download_corpus/tiny/manifest.json"]


def test_artifacts_of_what_is_not_configured(results):
    make(results, "download_corpus/tiny/manifest.json")
    make(results, "encode_shard/tiny/tiny_bpe/00000.json", ("train-00000.bin", "valid-00000.bin"))
    make(results, "encode_shard/tiny/tiny_bpe/00007.json", ("train-00007.bin", "valid-00007.bin"))
    make(results, "encode_shard/tiny/old_bpe/00000.json", ("train-00000.bin", "valid-00000.bin"))
    make(results, "train_tokenizer/old_bpe/manifest.json")
    make(results, "train_model/old/manifest.json", ("weights/model.safetensors", "metrics.jsonl"))
    make(results, "download_task/old/manifest.json", ("task/old.yaml", "data/test.parquet"))
    make(results, "evaluate_task/tiny/old/manifest.json", ("scores.json",))
    make(results, "write_report/manifest.json")
    before = paths(results)
    listed = collect(results)
    assert [line.split(": ")[0] for line in listed] == [
        "download_task/old",
        "train_tokenizer/old_bpe",
        "encode_shard/tiny/old_bpe/00000.json",
        "encode_shard/tiny/tiny_bpe/00007.json",
        "train_model/old",
        "evaluate_task/tiny/old",
    ]
    assert all(line.endswith("kB, no configured run uses it") for line in listed)
    assert paths(results) == before, "it only lists"
    assert collect(results, delete=True) == listed
    gone = ("/old", "00007")
    assert paths(results) == [path for path in before if not any(word in path for word in gone)]
    assert not (results / "train_model").exists() and not (results / "encode_shard/tiny/old_bpe").exists()
    assert collect(results) == []


def test_the_list_of_an_artifact_s_files_goes_with_it(results):
    for corpus in ("tiny", "old"):
        folder = make(results, f"download_corpus/{corpus}/manifest.json")
        (folder / ".manifest.files").write_text('["made.txt"]')
    (results / "plan_run/tiny").mkdir(parents=True)
    (results / "plan_run/tiny/.manifest.files").write_text("[]")  # while the next one is made
    assert [line.split(": ")[0] for line in collect(results, delete=True)] == ["download_corpus/old"]
    assert sorted({path.split("/")[1] for path in paths(results)}) == ["tiny"]


def test_what_is_remembered_of_shards_goes_with_the_last_of_them(results):
    for tokenizer in ("tiny_bpe", "old_bpe"):
        folder = make(results, f"encode_shard/tiny/{tokenizer}/00000.json")
        (folder / "checked.json").write_text("{}")
    assert collect(results, delete=True) == [
        "encode_shard/tiny/old_bpe/00000.json: 1.2 kB, no configured run uses it",
        "encode_shard/tiny/old_bpe/checked.json: 2 B, on shards that no configured run uses",
    ]
    assert not (results / "encode_shard/tiny/old_bpe").exists()
    assert collect(results) == []


def test_a_run_that_another_starts_from_is_used(results):
    make(results, "train_model/first/manifest.json", identity=PUBLISHED)
    make_checkpoint(results, "first", PUBLISHED)
    start = "{weights: null, run: first, optimizer: kept, schedule: fresh}"
    inputs = [
        make(results, f"encode_shard/tiny/tiny_bpe/{name}.json") for name in artifacts.shard_names(settings(), "tiny")
    ]
    assert inputs
    assert collect(results, override=f"run.first.base=tiny run.first.start=null 'run.tiny.start={start}'") == []
    assert len(collect(results)) == 2


def test_of_checkpoints_the_current_the_published_and_the_named_identity_stay(results, monkeypatch):
    monkeypatch.setattr(garbage.Identity, "name", CURRENT)
    for name in artifacts.shard_names(settings(), "tiny"):
        make(results, f"encode_shard/tiny/tiny_bpe/{name}.json")
    make(results, "train_model/tiny/manifest.json", identity=PUBLISHED)
    for identity in (CURRENT, OTHER, PUBLISHED, NAMED):
        make_checkpoint(results, "tiny", identity)
    override = f"run.tiny.train.resume_from={NAMED!r}".replace("'", '"')
    (line,) = collect(results, delete=True, override=f"'{override}'")
    assert line == f"train_model/tiny/checkpoints/{OTHER}: 500 B, checkpoints of an identity that the run no longer has"
    assert sorted(path.name for path in (results / "train_model/tiny/checkpoints").iterdir()) == [
        CURRENT,
        PUBLISHED,
        NAMED,
    ]


def test_without_the_inputs_the_current_identity_is_not_known_and_all_stay(results):
    make_checkpoint(results, "tiny", OTHER)
    make_checkpoint(results, "old", OTHER)
    lines = collect(results, delete=True)
    shard = f"{results}/encode_shard/tiny/tiny_bpe/00000.json".replace(f"{results}/", "")
    assert lines == [
        f"train_model/tiny/checkpoints: all kept, since {shard} is missing",
        f"train_model/old/checkpoints/{OTHER}: 500 B, checkpoints of a run that is not configured",
    ]
    assert paths(results) == [f"train_model/tiny/checkpoints/{OTHER}/4/state"]


def test_a_damaged_manifest_keeps_all_checkpoints_too(results):
    make_checkpoint(results, "tiny", OTHER)
    make(results, "encode_shard/tiny/tiny_bpe/00000.json").joinpath("00000.json").write_text("{")
    assert "all kept, since a manifest is damaged" in collect(results, delete=True)[0]


def test_what_a_dead_writer_left_goes_and_what_a_live_one_writes_stays(results):
    for run in ("tiny", "old"):
        make(results, f"sample_model/{run}/manifest.json")
        (results / f"sample_model/{run}/.partial-manifest-0123").mkdir()
    lock = locks.Lock(results / "sample_model/old/.manifest.lock", print, print)
    lock.acquire(0)
    lines = collect(results, delete=True)
    assert lines[1] == "sample_model/tiny/.partial-manifest-0123: 0 B, left by a writer that died"
    assert lines[0].startswith(f"sample_model/old: being written by process {os.getpid()} on ")
    assert lines[0].endswith("; left alone") and len(lines) == 2
    assert (results / "sample_model/old/.partial-manifest-0123").exists()
    lock.release()
    assert len(collect(results, delete=True)) == 2
    assert paths(results) == ["sample_model/tiny/made.txt", "sample_model/tiny/manifest.json"]


def test_a_lock_of_another_machine_is_watched(results):
    folder = make(results, "sample_model/old/manifest.json")
    lock = folder / ".manifest.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 17, "since": "noon", "token": "t"}))
    begun = time.monotonic()
    listed, text = collect(results), lock.read_text()
    assert time.monotonic() - begun > locks.DEAD and "elsewhere" in text
    assert listed == ["sample_model/old: 1.2 kB, no configured run uses it"]
    (folder / ".manifest.lock.0123").touch()
    with lock.open() as file:  # held by a server that knows nothing of the death
        fcntl.flock(file, fcntl.LOCK_EX)
        assert collect(results, delete=True)[1:] == listed
    assert paths(results) == []


def test_what_is_no_artifact_is_left_alone(results):
    folder = make(results, "sample_model/old/manifest.json")
    for name in ("sample_model/old/my notes.txt", "sample_model/mine/a", "sample_model/mine/b", "thesis.pdf"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_text("mine")
    (results / "plan_run/x").mkdir(parents=True)  # nothing in it
    (results / "train_model/mine/checkpoints/best").mkdir(parents=True)
    (results / "train_model/mine/checkpoints/best/weights").write_text("mine")
    lines = collect(results, delete=True)
    assert lines[:-1] == [
        "sample_model/mine: 8 B, unknown, left alone",
        "sample_model/old/my notes.txt: 4 B, unknown, left alone",
        "thesis.pdf: 4 B, unknown, left alone",
        "train_model/mine: 4 B, unknown, left alone",
    ]
    assert len(paths(results)) == 5 and folder.exists()


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version": 1}', "another stage", "outside", "absolute"])
def test_a_manifest_that_cannot_be_trusted_is_left_alone(results, damage):
    victim = results.parent / "victim.txt"
    victim.write_text("mine")
    folder = make(results, "sample_model/old/manifest.json")
    if damage in ("another stage", "outside", "absolute"):
        names = {"another stage": "made.txt", "outside": "../../../victim.txt", "absolute": str(victim)}
        stage = "plan_run" if damage == "another stage" else "sample_model"
        content = {"stage": stage, "files": {names[damage]: None}}
        damage = json.dumps(manifest.build(content, {}))
    (folder / "manifest.json").write_text(damage)
    (line,) = collect(results, delete=True)
    assert line.endswith("unknown, left alone")
    assert victim.exists() and (folder / "made.txt").exists()


def test_links_are_removed_as_links_and_never_followed(results, tmp_path):
    outside = tmp_path / "outside"
    (outside / "old").mkdir(parents=True)
    (outside / "model.safetensors").write_text("mine")
    make(outside, "sample_model/old/manifest.json")
    folder = make(results, "train_model/old/manifest.json", ("weights/model.safetensors", "metrics.jsonl"))
    shutil.rmtree(folder / "weights")
    (folder / "weights").symlink_to(outside)
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(outside / "model.safetensors")
    make_checkpoint(results, "old", OTHER).joinpath("link").symlink_to(outside)
    (folder / "checkpoints" / NAMED).symlink_to(outside)
    (results / "sample_model").symlink_to(outside / "sample_model")
    (results / "plan_run").mkdir()
    (results / "plan_run/old").symlink_to(outside / "sample_model/old")
    before = paths(outside)
    lines = collect(results, delete=True)
    assert [line.split(": ")[0] for line in lines if "a link, left alone" in line] == [
        "plan_run/old",
        "sample_model",
        f"train_model/old/checkpoints/{NAMED}",
    ]
    assert paths(outside) == before
    assert paths(results) == ["plan_run/old", "sample_model", f"train_model/old/checkpoints/{NAMED}"]


def test_a_deletion_that_was_killed_leaves_no_manifest_and_is_finished_later(results, monkeypatch):
    files = tuple(f"{number}.txt" for number in range(4))
    folder = make(results, "sample_model/old/manifest.json", files)
    unlink = Path.unlink

    def killed(path: Path, **options) -> None:
        if path.name == "2.txt":
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        collect(results, delete=True)
    assert not (folder / "manifest.json").exists() and (folder / "3.txt").exists()
    monkeypatch.setattr(locks, "MACHINE", {"host": "restarted"})  # this process still has the lock
    (folder / ".manifest.lock").unlink()
    (line,) = collect(results, delete=True)
    assert line == "sample_model/old/.deleting-manifest.json: 2.3 kB, its deletion was interrupted"
    assert paths(results) == []


def test_what_was_made_again_after_a_killed_deletion_stays(results):
    folder = make(results, "sample_model/old/manifest.json")
    shutil.copy(folder / "manifest.json", folder / ".deleting-manifest.json")
    override = "run.old.base=tiny runs=[old]"
    assert len(collect(results, delete=True, override=override)) == 1
    assert paths(results) == ["sample_model/old/made.txt", "sample_model/old/manifest.json"]


def test_no_results_at_all(results):
    results.rmdir()
    assert collect(results, delete=True) == []
    assert not results.exists()


def test_the_runs_of_a_grid_are_those_that_were_made_whatever_the_order_of_its_keys(checkout: Checkout):
    (checkout.folder / "rates.yaml").write_text(
        "runs: [rates]\nrun:\n  rates:\n    base: tiny\n"
        "    grid: { train.seed: [0, 1], train.optimizer.learning_rates.matrices: [1e-2, 3e-2] }\n"
    )
    raw = {}
    for name in ("config.yaml", TINY, "rates.yaml"):
        raw = configfile.merge(raw, yaml.safe_load((checkout.folder / name).read_text()))
    configured = artifacts.artifacts(configfile.load(raw), LOCK)
    assert "train_model/rates-seed=0-matrices=1e-2/manifest.json" in [artifact.manifest for artifact in configured]
    make_whole(checkout.results, configured)
    before = paths(checkout.results)
    words = ("--configfile", TINY, "rates.yaml")
    for target, last in (("gc", "nothing is unused"), ("verify", "all as they should be")):
        done = checkout.python("scripts/run_workflow.py", "--cores", "2", target, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].endswith(last)
    assert paths(checkout.results) == before


def test_make_gc_lists_and_deletes_what_another_configuration_made(scratch: Checkout, monkeypatch):
    trained = scratch.results / "train_model/tiny"
    identity = json.loads((trained / "manifest.json").read_text())["content"]["facts"]["identity"]
    (current,) = (trained / "checkpoints").iterdir()
    assert current.name == identity
    # not published yet: only what the identity is made of can save it
    record = (trained / "manifest.json").read_text()
    (trained / "manifest.json").unlink()
    shutil.copytree(current, current.with_name(OTHER))
    before = paths(scratch.results)
    listed = scratch.make("gc")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    lines = [line.removeprefix("[gc] ") for line in listed.stdout.splitlines()]
    assert lines[0] == "measured against 1 run: tiny; what other configuration files or --config use counts as unused"
    assert lines[-1].startswith("1 thing, ") and "to delete: make gc YES=1" in lines[-1]
    assert lines[-2].startswith(f"results/train_model/tiny/checkpoints/{OTHER}: ")
    assert paths(scratch.results) == before
    (trained / "manifest.json").write_text(record)
    monkeypatch.setitem(ENVIRONMENT, "YES", "1")
    deleted = scratch.make("gc", "--config", "set=run.tiny.train.seed=5 runs=[other] run.other.base=tiny ")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    left = paths(scratch.results)
    assert not [path for path in left if "/tiny/" in path and path.startswith(("train_model", "sample_model", "plan"))]
    assert any(path.startswith("encode_shard/tiny/") for path in left)
    assert "write_report/manifest.json" in left
