"""The code a stage depends on: its script, the library modules it imports, their data files and packages.

Snakemake sees neither an edited module nor a changed lock file. So the files found here are inputs of
the stage's rule, and the locked versions of the packages found here go into its parameter.
"""

import ast
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker

from makelm.errors import UserError

SCRIPTS = Path(__file__).resolve().parent.parent
LOCK = SCRIPTS.parent / "uv.lock"

WHEELS = re.compile(r"^wheels = \[\n(?:    .*\n)*\]\n", re.MULTILINE)

# Not what editors, patches and compilers leave beside a file.
SUFFIXES = frozenset({".py", ".j2", ".css", ".js", ".yaml"})

# Left out of every closure: they frame a stage and decide nothing of its content (no defaults, no data, no model).
PLUMBING = frozenset(
    {
        "__init__",
        "attempts",
        "cli",
        "closure",
        "config",
        "config_asking",
        "config_cluster",
        "config_corpus",
        "config_devices",
        "config_mixture",
        "config_model",
        "config_tokenizer",
        "config_training",
        "config_types",
        "config_weights",
        "configfile",
        "device_peaks",
        "early",
        "errors",
        "extras",
        "locks",
        "manifest",
        "programs",
        "progress",
        "stages",
        "tracking",
        "tracking_tensorboard",
        "tracking_wandb",
        "unused_gpus",
    }
)

# Where the name to install differs from the name to import, or the import brings what computes.
DISTRIBUTIONS = {
    "jax": ("jax", "jaxlib"),
    "lm_eval": ("lm-eval",),
    "yaml": ("pyyaml",),
    "huggingface_hub": ("huggingface-hub",),
    "orbax": ("orbax-checkpoint",),
    "tiktoken_ext": ("tiktoken",),
}


@dataclass(frozen=True)
class Closure:
    """The files and packages one stage's code is made of."""

    files: tuple[Path, ...]  # absolute, sorted; the script among them
    packages: tuple[str, ...]  # distribution names, sorted

    def digest(self) -> str:
        """Returns the sha256 of the files' names and bytes."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(f"{path.relative_to(SCRIPTS).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


def imports(path: Path) -> set[str]:
    """Returns the dotted names a Python file imports, anywhere in it; `from a import b` counts as a and a.b."""
    return imported(path, path.read_bytes())


@cache
def imported(path: Path, text: bytes) -> set[str]:
    """Returns what `imports` does, of a file with this text: most modules are in the closures of several stages."""
    names = set()
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import would not be found by the scripts"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields all statements below a node. No expression holds one, and expressions are nearly all of a file."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, block, ())
        for each in inner if isinstance(inner, list) else ():
            yield each
            yield from statements(each)


@cache
def closure(script: str) -> Closure:
    """Returns the closure of the stage whose program is scripts/<script>.py."""
    files, packages, todo = set(), set(), [SCRIPTS / f"{script}.py"]
    while todo:
        path = todo.pop()
        if path in files:
            continue
        # report.py owns report.html.j2 and whatever else bears its name
        files.update(f for f in path.parent.glob(f"{path.stem}.*") if f.suffix in SUFFIXES)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "makelm":
                module = SCRIPTS / "makelm" / f"{parts[1]}.py" if len(parts) > 1 else None
                if module and module.exists() and parts[1] not in PLUMBING:
                    todo.append(module)
            elif parts[0] not in sys.stdlib_module_names:
                packages.update(DISTRIBUTIONS.get(parts[0], (parts[0],)))
    return Closure(tuple(sorted(files)), tuple(sorted(packages)))


def locked_versions(lock: str) -> dict[str, str]:
    """Returns package name -> version pinned for this interpreter and system, from the text of a uv.lock file."""
    versions = {}
    # the addresses and hashes of files are nine tenths of it: a quarter of a second whenever Snakemake starts
    for package in tomllib.loads(WHEELS.sub("", lock))["package"]:
        markers = package.get("resolution-markers", [])
        if not markers or any(Marker(marker).evaluate() for marker in markers):
            versions[package["name"]] = package.get("version")
    return versions


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns package name -> version that is installed where this runs."""
    return {name: metadata.version(name) for name in packages}
