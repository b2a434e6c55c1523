"""Checks every preset and writes docs/presets.md: `make presets`.

The exact number of parameters, without allocating one; a short run at reduced size through the whole workflow on
eight simulated devices; the parity tests' differences from Hugging Face's transformers. Ends with 1 where a number is
wrong or a run fails.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import yaml

from makelm import config, configfile, stages
from makelm.progress import clock

ROOT = Path(__file__).resolve().parent.parent.parent
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
REDUCED = Path(__file__).with_name("reduced.yaml")
PAGE = ROOT / "docs/presets.md"
CORES = os.cpu_count() or 1
VOCAB_SIZE = {"gpt2": 50257, "characters": 65}  # of tokenizers that have no such key
# run -> parameters: the systems' own numbers, where they give one, else from the shape by hand
PARAMETERS = {
    "finetune_gpt2_shakespeare": 124_439_808,
    "finetune_gptj": 6_050_882_784,
    "gpt2": 124_439_808,
    "gpt2_large": 774_030_080,
    "gpt2_medium": 354_823_168,
    "gpt2_xl": 1_557_611_200,
    "gptj_40b_v3_256": 39_483_278_560,
    "gptj_6b": 6_050_882_784,
    "gptj_6b_8x80gb": 6_050_882_784,
    "gptj_6b_v3_256": 6_050_882_784,
    "llama_small": 100_682_496,
    "nanodo": 35_578_880,
    "nanogpt_124m": 124_373_760,
    "nanogpt_shakespeare": 10_745_088,
    "nanojaxgpt": 389_573_376,
    "picodo": 162_129_408,
    "picodo_2025": 124_141_056,
    "shakespeare_char": 206_016,
}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # far more is compiled than computed
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


class Row(NamedTuple):
    """What a reduced run came to."""

    first: float  # loss of the first step
    last: float  # and of the last
    bits: float  # per byte of the validation documents
    export: str  # two cells: the class, and by how much its logits differ


def main() -> None:
    started = time.monotonic()
    raw = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "config.yaml", *PRESETS, REDUCED)]
    settings = configfile.load(reduce(configfile.merge, raw))
    with ThreadPoolExecutor(CORES) as pool:
        counts = dict(zip(PARAMETERS, pool.map(lambda run: count(settings, run), PARAMETERS), strict=True))
    folder = Path(tempfile.mkdtemp(prefix="makelm-presets-"))
    good = build(settings, folder)
    print(f"{len(settings.runs)} runs in {clock(time.monotonic() - started)}", flush=True)
    good = compare(folder) and good
    guess = math.log(settings.tokenizer["tiny_bpe"].vocab_size)
    found = {run: measured(folder / "results", run) for run in settings.runs}
    page = "\n".join([*preset_lines(counts), *run_lines(found, guess), *parity_lines(folder)])
    print(page)
    wrong = [*wrong_counts(counts), *wrong_starts(found, guess)]
    if wrong or not good:
        sys.exit("\n".join([*wrong, f"not all is well; what was made is in {folder}"]))
    PAGE.write_text(page + "\n", encoding="utf-8")
    shutil.rmtree(folder)
    print(f"wrote {PAGE.relative_to(ROOT)} in {clock(time.monotonic() - started)}")


def wrong_counts(counts: dict[str, int]) -> list[str]:
    """Returns a line for each preset that has not as many parameters as it should."""
    return [
        f"{run} has {counts[run]:,} parameters, not {expected:,}"
        for run, expected in PARAMETERS.items()
        if counts[run] != expected
    ]


def wrong_starts(found: dict[str, Row | None], guess: float) -> list[str]:
    """Returns a line for each run that does not begin near the loss of a uniform guess."""
    return [
        f"{run} begins with a loss of {row.first:.3f}; a uniform guess has {guess:.3f}"
        for run, row in found.items()
        if row and abs(row.first - guess) > 1
    ]


def count(settings: config.Config, run: str) -> int:
    """Returns the number of parameters that plan_run gives; it is ended there, before it compiles the step."""
    name = settings.run[run].tokenizer
    vocab_size = VOCAB_SIZE.get(name) or settings.tokenizer[name].vocab_size
    keys = [json.dumps(part) for part in stages.keys("plan_run", settings, run, (ROOT / "uv.lock").read_text())]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, ROOT / "scripts/plan_run.py", "--config", keys[0], "--execution", keys[1]]
        command += ["--vocab-size", str(vocab_size), "--out", out]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if found := re.search(r"([\d,]+) parameters", line):
                    process.kill()
                    return int(found[1].replace(",", ""))
    sys.exit(f"plan_run says no number of parameters of {run}")


def build(settings: config.Config, folder: Path) -> bool:
    """Runs the workflow on the reduced presets, those that start from others' exports last; returns whether it went."""
    first = [run for run in settings.runs if not settings.run[run].start]
    return workflow(folder, first) and workflow(folder, settings.runs)


def workflow(folder: Path, runs: list[str]) -> bool:
    """Builds runs, as many jobs at once as there are cores; returns whether all went."""
    command = [sys.executable, ROOT / "scripts/run_workflow.py", "--cores", str(CORES), "--keep-going"]
    command += ["--resources", f"accelerator={CORES}", "--config", f"set='runs=[{','.join(runs)}]'"]
    command += ["--configfile", *PRESETS, REDUCED]
    environment = os.environ | ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment).returncode == 0


def compare(folder: Path) -> bool:
    """Runs the parity tests, which leave their differences in the folder; returns whether they passed."""
    environment = os.environ | {"MAKELM_PARITY_TABLE": str(folder / "parity.json")}
    return subprocess.run([sys.executable, "-m", "pytest", "tests/parity"], cwd=ROOT, env=environment).returncode == 0


# ---- the page


def preset_lines(counts: dict[str, int]) -> list[str]:
    """Returns the page's beginning: what each preset is."""
    lines = [
        "# Presets",
        "",
        "What each file in `workflow/presets/` makes; its head says what differs from its model. `make presets`"
        " writes this page, and fails where a number of parameters is wrong or a run does not go through.",
        "",
        "| preset | after | parameters |",
        "|---|---|---|",
    ]
    for path in PRESETS:
        text = path.read_text(encoding="utf-8")
        title = text.removeprefix("# ").split(":")[0]
        lines += [f"| {run} | {title} | {counts[run]:,} |" for run in yaml.safe_load(text)["run"] if run in counts]
    return lines


def measured(results: Path, run: str) -> Row | None:
    """Returns what a reduced run came to, or nothing where it failed."""
    try:
        metrics = (results / "train_model" / run / "metrics.jsonl").read_text().splitlines()
        scores = json.loads((results / "evaluate_model" / run / "scores.json").read_text())
        parity, exported = (
            json.loads((results / "export_model" / run / f"{file}.json").read_text()) for file in ("parity", "config")
        )
    except FileNotFoundError:
        return None
    first, last = (json.loads(metrics[place])["loss"] for place in (0, -1))
    if parity["architecture"]:
        export = f"{parity['architecture']} | {parity['max_logit_difference']:.0e}"
    else:
        export = f"its own layout: {exported['reason'].rpartition('; ')[2]} |"
    return Row(first, last, scores["bits_per_byte"], export)


def run_lines(found: dict[str, Row | None], guess: float) -> list[str]:
    """Returns the table of the reduced runs."""
    lines = [
        "",
        "## A short run of each",
        "",
        f"2 layers, 64 wide, 6 steps of 8 x 32 tokens of the standard library's source (a uniform guess has a loss of"
        f" {guess:.2f}), on a mesh of 2 x 2 x 2 simulated devices; all else is the preset's. Planned, trained, sampled,"
        " evaluated and exported by the workflow. The fine-tuning runs start from the exports of gpt2 and gptj_6b.",
        "",
        "| preset | loss in step 1 | in step 6 | bits per byte | exports as | logits differ by |",
        "|---|---|---|---|---|---|",
    ]
    for run, row in found.items():
        numbers = f"{row.first:.3f} | {row.last:.3f} | {row.bits:.3f} | {row.export}" if row else "failed | | | |"
        lines.append(f"| {run.removesuffix('_reduced')} | {numbers} |")
    return lines


def parity_lines(folder: Path) -> list[str]:
    """Returns the table of the parity tests."""
    lines = [
        "",
        "## Against transformers",
        "",
        "Small models with random weights, computed here and by Hugging Face's transformers: what makelm exports (out)"
        " and what transformers saved (in). Largest differences, as a share of the largest value where that is over 1.",
        "",
        "| class | | case | logits | loss | gradient of the embedding |",
        "|---|---|---|---|---|---|",
    ]
    path = folder / "parity.json"
    for name, found in json.loads(path.read_text()).items() if path.exists() else ():
        architecture, way, case = re.fullmatch(r"(\w+) (in|out), (\w+)", name).groups()
        numbers = " | ".join(f"{found[part]:.0e}" for part in ("logits", "loss", "gradient"))
        lines.append(f"| {architecture} | {way} | {case} | {numbers} |")
    return lines


if __name__ == "__main__":
    main()
