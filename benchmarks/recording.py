"""Where measurements go: measured/<name>.json, and a table of them between two marks of README.md."""

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Table:
    """A table as Markdown has it."""

    def __init__(self, *titles: str):
        self.lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

    def add(self, cells: list) -> None:
        self.lines.append(f"| {' | '.join(map(str, cells))} |")

    def __str__(self) -> str:
        return "\n".join(self.lines)


def record(name: str, results: object, table: Table, missing: list[str] = ()) -> None:
    """Writes results of a benchmark, and its table into the README where it has the marks `<!-- name -->`."""
    when = datetime.now(UTC).date().isoformat()
    # where things lie on a machine is its own affair
    words = [f"<{Path(word).name}>" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = " ".join(["python", f"benchmarks/{name}.py", *words])
    content = {"date": when, "command": command, "machine": machine(), "missing": list(missing), "results": results}
    folder = HERE / "measured"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    assert after, f"{page} has no place for {name}"
    absent = f" Not there: {', '.join(missing)}." if missing else ""
    line = f"{when}, {machine()}.{absent}"
    page.write_text(f"{before}{begin}\n{line}\n\n{table}\n{end}{after}")


def machine() -> str:
    """Returns what was measured on, in words."""
    words = [f"CPython {platform.python_version()}", f"JAX {metadata.version('jax')}"]
    return ", ".join([processor(), *words])


def processor() -> str:
    """Returns the accelerator, or the processor and how many cores of it."""
    if shutil.which("nvidia-smi"):
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"
