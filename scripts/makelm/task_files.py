"""The files of this machine that a task of lm-eval is made of: its YAML, what that includes, its functions, its data.

This module is also imported when Snakemake reads the workflow, so it imports little, and runs no function of a task.
"""

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from makelm.config_corpus import is_address
from makelm.errors import UserError, first_line

FORMATS = ("json", "csv", "parquet", "text", "arrow")  # that `datasets` reads from files it is given


class Function(str):
    """What stands behind !function: a module beside the YAML, a dot, a name."""


class Loader(yaml.SafeLoader):
    """Reads a task's YAML without importing what it names."""


Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))


def all_files(path: Path) -> list[Path]:
    """Returns the files of this machine that a task is made of. Raises UserError where one is missing."""
    return [*code_files(path), *data_files(read(path))]


def code_files(path: Path) -> list[Path]:
    """Returns a task's YAML, those it includes, and the Python files beside them that its functions are in."""
    config, found = read_one(path), [path]
    for name in texts(config, Function):
        module = path.parent / f"{name.rpartition('.')[0].replace('.', '/')}.py"
        found += [module] if module.is_file() else []  # else it is one of a package
    for included in includes(config):
        found += code_files(path.parent / included)
    return list(dict.fromkeys(found))


def data_files(config: dict) -> list[Path]:
    """Returns the files of this machine that hold a task's questions; as in lm-eval, from where makelm is run."""
    given, folder = config.get("dataset_kwargs") or {}, config.get("dataset_path")
    folders = [Path(name) for name in (folder, given.get("data_dir")) if isinstance(name, str) and Path(name).is_dir()]
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    for name in texts(given.get("data_files")):
        if is_address(name):
            continue
        # as `datasets` does: a path, or a pattern, which passes over hidden files
        named = [name] if Path(name).is_file() else glob(name, recursive=True)  # noqa: PTH207  that takes no /data/*
        paths = sorted(path for path in map(Path, named) if path.is_file())
        if not paths:
            raise UserError(f"its data_files are not there: {name}")
        found += paths
    return found


def read(path: Path) -> dict:
    """Returns a task's configuration with what it includes laid under it."""
    config, merged = read_one(path), {}
    for included in includes(config):
        merged |= read(path.parent / included)
    return merged | config


def read_one(path: Path) -> dict:
    """Returns what one YAML file says. Raises UserError where it is missing or no task."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or what looks like a date and is none
        raise UserError(f"{path} is no YAML: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is no task: a map of keys is expected")
    return config


def includes(config: dict) -> list[str]:
    """Returns the names of the YAML files that one includes."""
    return list(texts(config.get("include")))


def texts(value: Any, kind: type[str] = str) -> Iterator[str]:
    """Yields the texts of a kind in a text, or anywhere in lists and maps."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each, kind)
