"""A training goes on from another identity: by itself where only its steps changed, by name where the user says so.

`make test-faults` runs these.
"""

import json
import os

import numpy as np
import pytest
from training_stage import made, rows, train

from makelm import weights

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

CONSTANT = {"schedule": {"kind": "constant"}, "steps": 30, "validate_every": 20, "checkpoint_every": 10}


@pytest.fixture
def thirty(data, tmp_path):
    """A run of 30 steps; returns its folder and its identity."""
    done = train(data, tmp_path / "run", CONSTANT)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run", facts(tmp_path / "run")["identity"]


def facts(out):
    return json.loads((out / "manifest.json").read_text())["content"]["facts"]


def test_more_steps_of_a_constant_schedule_go_on_and_are_the_longer_run_to_the_last_bit(data, thirty, tmp_path, tell):
    out, identity = thirty
    longer = train(data, out, CONSTANT | {"steps": 50})
    assert longer.returncode == 0, longer.stderr
    assert f"goes on from step 30 of identity {identity}, which differs in train.steps only: 30" in longer.stdout
    assert "from step 30, identity" in longer.stdout
    assert train(data, tmp_path / "whole", CONSTANT | {"steps": 50}).returncode == 0
    assert made(out) == made(tmp_path / "whole")
    assert [row["step"] for row in rows(out) if "validation_loss" in row] == [20, 40, 50]
    tell(
        "faults",
        "`steps: 30` done, then `steps: 50`, constant schedule",
        "goes on from 30; the bytes of 50 at once",
    )


def test_more_steps_go_on_from_before_the_decay_where_that_was_kept(data, tmp_path, tell):
    decaying = {"schedule": {"kind": "linear", "decay_fraction": 0.5}, "steps": 40, "checkpoint_every": 10}
    assert train(data, tmp_path / "run", decaying | {"keep_every": 10}).returncode == 0
    longer = train(data, tmp_path / "run", decaying | {"steps": 60})
    # the first decays from step 21 on
    assert longer.returncode == 0 and "goes on from step 20 of identity" in longer.stdout
    assert train(data, tmp_path / "whole", decaying | {"steps": 60}).returncode == 0
    assert made(tmp_path / "run") == made(tmp_path / "whole")
    tell("faults", "`steps: 40` with a decay done, then `steps: 60`", "goes on from before the decay; the same bytes")


def test_more_steps_after_a_decay_begin_at_zero_and_say_why(data, tmp_path):
    decaying = {"schedule": {"kind": "linear", "decay_fraction": 0.5}, "steps": 40, "checkpoint_every": 20}
    assert train(data, tmp_path, decaying | {"keep_checkpoints": 1}).returncode == 0
    longer = train(data, tmp_path, decaying | {"steps": 60})
    assert longer.returncode == 0 and "; from step 0, identity" in longer.stdout
    assert "is the same training of 40 steps, but its learning rates are others from step 23 on" in longer.stdout
    assert "its checkpoints begin at 40" in longer.stdout


RATES = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-3)


def test_a_named_identity_is_gone_on_from_and_the_manifest_says_so(data, thirty):
    out, identity = thirty
    changed = CONSTANT | {"optimizer": {"kind": "adamw", "learning_rates": RATES}, "steps": 40}
    limited = train(data, out, changed | {"time_limit": 1e-4}, "--resume-from", identity)
    assert limited.returncode == 75, limited.stderr
    assert f"goes on from step 30 of identity {identity}, though train.optimizer.learning_rates" in limited.stdout
    done = train(data, out, changed)  # its own checkpoint is there now
    assert done.returncode == 0 and "from step 31, identity" in done.stdout, done.stdout
    assert [row["step"] for row in rows(out)] == list(range(1, 41))
    origin = facts(out)["resumed_from"]
    assert (origin["identity"], origin["step"]) == (identity, 30)
    assert "train.optimizer.learning_rates.matrices is 0.001, there 0.02" in origin["differences"]


def test_the_steps_of_another_identity_count_with_their_own_batches(data, thirty):
    out, identity = thirty
    done = train(data, out, CONSTANT | {"batch_size": 4, "steps": 40, "resume_from": identity})
    assert done.returncode == 0, done.stderr
    assert [row["tokens"] for row in rows(out)[28:32]] == [29 * 128, 30 * 128, 30 * 128 + 64, 30 * 128 + 128]
    summary = json.loads((out / "summary.json").read_text())
    # the 6,000 tokens are 375 windows of 16
    assert (summary["tokens"], summary["epochs"]) == (30 * 128 + 10 * 64, {"mine": round((30 * 8 + 10 * 4) / 375, 4)})


def test_statistics_that_do_not_fit_are_left_behind_aloud(data, thirty):
    out, identity = thirty
    changed = CONSTANT | {"optimizer": {"kind": "lion", "learning_rates": RATES}, "steps": 40, "resume_from": identity}
    done = train(data, out, changed)
    assert done.returncode == 0 and "from step 30, identity" in done.stdout, done.stderr
    assert "the optimizer's statistics of step 30 of identity" in done.stdout


@pytest.mark.parametrize(
    ("changes", "model", "line"),
    [
        ({"steps": 40}, {"d_ff": 64}, "do not fit this model: model.d_ff is 64, there 32"),
        ({"steps": 20, "seed": 1}, {}, "train.steps: 20, but IDENTITY has done 30; set more"),
        ({"seed": 1, "resume_from": "abc"}, {}, "train.resume_from: abc is no identity of this run; there is IDENTITY"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_line(data, thirty, changes, model, line):
    out, identity = thirty
    done = train(data, out, CONSTANT | {"resume_from": identity} | changes, model=model)
    assert done.returncode == 2, done.stdout
    assert line.replace("IDENTITY", identity) in done.stderr and done.stderr.count("\n") == 1


def test_a_bad_step_is_left_out_where_that_is_wanted(data, thirty, tmp_path):
    limit = sorted(row["grad_norm"] for row in rows(thirty[0]))[20]
    done = train(data, tmp_path / "skipping", CONSTANT | {"bad_steps": "skip", "max_gradient_norm": limit})
    assert done.returncode == 0, done.stderr
    skipped = [row["step"] for row in rows(tmp_path / "skipping") if row.get("skipped")]
    large = [row["step"] for row in rows(tmp_path / "skipping") if row["grad_norm"] > limit]
    assert skipped == large and 0 < len(skipped) < 30
    assert f"step {skipped[0]} was left out" in done.stdout
    too_many = train(data, tmp_path / "bad", CONSTANT | {"bad_steps": "skip", "max_gradient_norm": 1e-6})
    assert too_many.returncode == 2 and "the 20th bad step in a row" in too_many.stderr


# ---- from another run

SIXTY = {"schedule": {"kind": "constant"}, "steps": 60, "validate_every": 30, "checkpoint_every": 30}
KEPT = {"weights": None, "run": "half", "optimizer": "kept", "schedule": "kept"}
FRESH = KEPT | {"optimizer": "fresh", "schedule": "fresh"}


@pytest.fixture(scope="module")
def half(data, tmp_path_factory):
    """A run of the first 30 of 60 steps."""
    out = tmp_path_factory.mktemp("half")
    done = train(data, out, SIXTY | {"steps": 30})
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_that_keeps_optimizer_and_schedule_is_the_longer_run(data, half, tmp_path):
    whole = train(data, tmp_path / "whole", SIXTY)
    assert whole.returncode == 0, whole.stderr
    done = train(data, tmp_path / "rest", SIXTY, "--start", half, start=KEPT)
    assert done.returncode == 0, done.stderr
    assert "from step 30," in done.stdout
    (weights, metrics, _), content = made(tmp_path / "rest")
    assert [weights, metrics] == made(tmp_path / "whole")[0][:2]
    assert content["inputs"]["start"] == json.loads((half / "manifest.json").read_text())["digest"]


def test_a_run_that_goes_on_with_another_corpus_says_how_much_of_which(data, half, tmp_path):
    done = train(data, tmp_path, SIXTY | {"batch_size": 4}, "--start", half, start=KEPT, corpus="yours")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["tokens"], summary["epochs"]) == (30 * 128 + 30 * 64, {"mine": 30 * 8 / 375, "yours": 30 * 4 / 375})


def test_a_fresh_start_has_the_weights_only(data, half, tmp_path):
    still = {"learning_rates": dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-12)}
    settled = SIXTY | {"steps": 1, "seed": 3, "schedule": {"warmup_steps": 0}, "optimizer": still}
    done = train(data, tmp_path, settled, "--start", half, start=FRESH)
    assert done.returncode == 0, done.stderr
    own, other = (weights.load(folder / weights.FILE).parameters for folder in (tmp_path, half))
    assert set(own) == set(other)
    for name in own:
        np.testing.assert_allclose(own[name], other[name], atol=1e-9, err_msg=name)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


@pytest.mark.parametrize(
    ("changes", "start", "model", "line"),
    [
        ({"steps": 30}, KEPT, {}, "train.steps: 30 include the 30 of the run this one starts from"),
        ({}, FRESH, {"n_layers": 3, "d_ff": 64}, "model.n_layers is 3, there 1; model.d_ff is 64, there 32"),
        ({"optimizer": {"kind": "lion"}}, KEPT, {}, "was trained with adamw, so lion cannot keep its statistics"),
        (
            {"optimizer": {"kind": "adamw", "rate_multipliers": {"mlp": 2.0}}},
            KEPT,
            {},
            "no checkpoint of step 30 with such an optimizer",
        ),
    ],
)
def test_a_start_that_cannot_be_is_one_line(data, half, tmp_path, changes, start, model, line):
    done = train(data, tmp_path, SIXTY | changes, "--start", half, start=start, model=model)
    assert done.returncode == 2
    assert line in done.stderr and done.stderr.count("\n") == 1
