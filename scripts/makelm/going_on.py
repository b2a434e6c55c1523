"""How a training goes on from the checkpoints of another identity.

It does so by itself where its steps were all that changed and the schedule is the same so far, or where the user says
which one to go on from. Else another identity begins at step 0.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from makelm import checkpoints, config, manifest, nested
from makelm.errors import UserError
from makelm.identities import Identity, differences, kind_of, read, steps
from makelm.optimizer import schedule
from makelm.seals import Seals

FILE = "origin.json"  # beside the checkpoints, where a user named what to go on from


@dataclass(frozen=True)
class Origin:
    """Where training goes on from: a step of another identity, whose metrics up to there are its own now."""

    folder: Path
    step: int
    differences: tuple[str, ...]
    state: Any


def whole_steps(folder: Path) -> Iterator[int]:
    """Yields the steps of which a folder has a checkpoint that is as it was written, the latest first."""
    for step in reversed(steps(folder)):
        if Seals(folder).broken(step) is None:
            yield step


def chosen(folder: Path, own: Identity, steps: int, shapes: Any, say: Callable[[str], None]) -> Origin:
    """Returns the last checkpoint of the identity that the user names. Raises UserError where that cannot be.

    Weights must fit. Statistics of an optimizer that do not are left behind, with a line that says so.
    """
    if not folder.is_dir():
        there = ", ".join(checkpoints.others(folder.parent, own.name)) or "no other"
        raise UserError(f"train.resume_from: {folder.name} is no identity of this run; there is {there}")
    step = next(whole_steps(folder), None)
    if step is None:
        raise UserError(f"train.resume_from: {folder.name} has no whole checkpoint")
    if step >= steps:
        raise UserError(f"train.steps: {steps}, but {folder.name} has done {step}; set more")
    other = read(folder)
    unlike = tuple(differences(own, other)) if other else ("what it was is not known",)
    where = f"step {step} of identity {folder.name}"
    # one optimizer's statistics may have the shape of another's
    same_kind = other is not None and kind_of(other) == kind_of(own)
    found = checkpoints.read_step(folder, step, shapes) if same_kind else None
    if found is None:
        weights = checkpoints.read_step(folder, step, {"parameters": shapes["parameters"]})
        if weights is None:
            raise UserError(f"train.resume_from: the weights of {where} do not fit this model: {'; '.join(unlike)}")
        say(f"the optimizer's statistics of {where} do not fit; they begin anew")
        found = weights
    say(f"goes on from {where}, though {'; '.join(unlike) or 'nothing differs'}")
    return Origin(folder, step, unlike, found)


def shorter(
    folders: Path, own: Identity, train: config.Train, shapes: Any, say: Callable[[str], None]
) -> Origin | None:
    """Returns a checkpoint of the same training with other `steps`, from before their schedules part; or None."""
    late = None
    for name in checkpoints.others(folders, own.name):
        other = read(folders / name)
        if other is None or (other.inputs, other.code) != (own.inputs, own.code):
            continue
        if any(key != "train.steps" for key, *_ in nested.differences(own.config, other.config)):
            continue
        theirs = config.Train.model_validate(train.model_dump() | other.config["train"])
        last = same_until(train, theirs)
        there = list(whole_steps(folders / name))
        fits = [step for step in there if step <= last and step < train.steps and not odd(step, theirs)]
        state = checkpoints.read_step(folders / name, fits[0], shapes) if fits else None
        if state is not None:
            say(f"goes on from step {fits[0]} of identity {name}, which differs in train.steps only: {theirs.steps}")
            return Origin(folders / name, fits[0], (f"train.steps is {train.steps}, there {theirs.steps}",), state)
        if there:
            late = (name, theirs.steps, there[-1], last)
    if late:
        name, steps, first, last = late
        begin = f"its checkpoints begin at {first}"
        if last == min(train.steps, steps):  # fewer steps of a schedule that does not depend on them
            why = f"{begin} and this one ends at {train.steps}: it begins at 0. train.keep_every keeps earlier ones"
        else:
            why = (
                f"its learning rates are others from step {last + 1} on and {begin}: this one begins at 0. A constant"
                " schedule goes on, and train.keep_every keeps checkpoints from before a decay"
            )
        say(f"identity {name} is the same training of {steps} steps, but {why}")
    return None


def same_until(train: config.Train, other: config.Train) -> int:
    """Returns after how many steps the learning rates of two trainings become different."""
    steps = np.arange(min(train.steps, other.steps))
    factors = [np.broadcast_to(schedule(each)(steps), steps.shape) for each in (train, other)]
    unlike = np.flatnonzero(factors[0] != factors[1])
    return int(unlike[0]) if len(unlike) else len(steps)


def odd(step: int, train: config.Train) -> bool:
    """Returns whether a state may have best weights that a longer training has not: a last step is always validated."""
    return train.publish == "best" and step == train.steps and step % train.validate_every != 0


def take_over(origin: Origin, saved: checkpoints.Checkpoints, validate_every: int | None) -> None:
    """Makes the metrics of the steps before those of this identity.

    `validate_every` leaves out a validation that only the last step of a shorter training has.
    """
    rows = [json.loads(line) for line in (origin.folder / "metrics.jsonl").read_text().splitlines()[: origin.step]]
    for row in rows:
        if validate_every and row["step"] % validate_every:
            for name in [name for name in row if name.startswith("validation_loss")]:
                del row[name]
    manifest.replace_text(saved.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))


def write_origin(folder: Path, origin: Origin | None) -> None:
    """Writes down, for the manifest, what a user made an identity go on from; or that it began by itself."""
    if origin is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    facts = {"identity": origin.folder.name, "step": origin.step, "differences": list(origin.differences)}
    manifest.replace_text(folder / FILE, json.dumps(facts, indent=1) + "\n")


def origin_facts(folder: Path) -> dict | None:
    """Returns where an identity went on from, or None."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else None
