"""Where manifests stand: all that a configuration stands for is found, and nothing besides."""

from test_start import LOCK, raw, start

from makelm import artifacts, configfile, places, stages


def test_all_manifests_of_a_configuration_are_found_and_nothing_else(tmp_path):
    settings = configfile.load(raw({"a": start(weights="mine") | {"tasks": ["piqa"]}}, runs=["stdlib", "a"]))
    made = sorted(tmp_path / artifact.manifest for artifact in artifacts.artifacts(settings, LOCK))
    others = [
        "train_model/a/checkpoints/manifest.json",
        "train_model/a/.partial-manifest-1/manifest.json",
        "encode_shard/stdlib/stdlib_bpe/.00000.files",
        "encode_shard/stdlib/stdlib_bpe/notes.json",
        "plan_run/manifest.json",
        "notes.json",
    ]
    assert {path.relative_to(tmp_path).parts[0] for path in made} == set(stages.STAGES)
    for path in (*made, *(tmp_path / other for other in others)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert places.manifests(tmp_path) == made
    assert places.manifests(tmp_path / "none") == []
