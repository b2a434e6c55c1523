"""From what config files say to the typed configuration: overrides, `base:`, `grid:`, one line for what is wrong."""

import itertools
import json
import re
import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from makelm.config import Config, Run
from makelm.config_corpus import CORPORA
from makelm.config_tokenizer import LEARNED, TOKENIZERS
from makelm.config_types import did_you_mean
from makelm.config_weights import WEIGHTS
from makelm.errors import UserError, first_line

SOURCES = {"corpus": CORPORA, "weights": WEIGHTS, "tokenizer": TOKENIZERS}  # whose entries have other keys for each

ENTRIES = ("corpus", "weights", "tokenizer", "task", "run")  # what has names

# A run's sections and their keys.
RUN_SECTIONS = {
    name: set(field.annotation.model_fields)
    for name, field in Run.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


# of YAML 1.1: an octal number and one of base 60, which nobody means who writes 0100 or 1:30
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+)")
HALF = re.compile("[\ud800-\udfff]")  # of a character that UTF-16 and JSON's escapes write as two


class Loader(yaml.SafeLoader):
    """YAML of which each map has a key once: PyYAML drops all but the last, which may be a whole section.

    Refused too is what would be read as something that nobody means.
    """

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        problem = ""
        if node.tag == "tag:yaml.org,2002:int" and OTHER_BASE.fullmatch(node.value):
            problem = f"{node.value} would be {self.construct_yaml_int(node)}; write the number that you mean"
        elif half := HALF.search(node.value):
            problem = f"U+{ord(half[0]):04X} is half a character; write the character itself"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple, int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                problem = f"the key {key.value!r} stands in line {lines[name]} already; keep one of the two"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[name] = line
        return node


class Repeated(ValueError):
    """A key stands twice in a map of JSON."""


def once(pairs: list[tuple[str, Any]]) -> dict:
    """Returns a map of JSON. Raises Repeated where a key stands in it twice."""
    if len(found := dict(pairs)) != len(pairs):
        raise Repeated
    return found


def read(path: Path) -> dict:
    """Returns the map in a JSON or YAML file. Raises UserError that says the line and what is wrong there."""
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte 0x{data[error.start]:02x} is no UTF-8; save the file as UTF-8") from None
    keys = read_text(text, path)
    if not isinstance(keys, dict):
        raise UserError(f"{path}:1: expected a map of keys, got {'nothing' if keys is None else repr(keys)[:60]}")
    return keys


def parse_text(text: str) -> Any:
    """Returns what a text says, as JSON or else as YAML. Raises yaml.YAMLError, or ValueError of an impossible date.

    JSON first, as Snakemake does, since it is no YAML: tabs may stand between keys, which may be of any length, and
    U+007F to U+009F mean themselves.
    """
    try:
        return json.loads(text, object_pairs_hook=once)
    except Repeated:
        return yaml.load(text.replace("\t", " "), Loader)  # which knows the line
    except ValueError:
        return yaml.load(text, Loader)


def read_text(text: str, path: Path | str) -> Any:
    """Returns what a text says, of a file or of a flag. Raises UserError: one line, with the place."""
    try:
        return parse_text(text)
    except yaml.MarkedYAMLError as error:
        line, begun = error.problem_mark.line + 1, error.context_mark
        since = f" that begins in line {begun.line + 1}" if begun and begun.line + 1 != line else ""
        context = f" ({error.context}{since})" if error.context else ""
        context += "; YAML wants spaces there, no tabs" if "'\\t'" in error.problem else ""
        raise UserError(f"{path}:{line}: {error.problem}{context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: {error.reason}, got U+{error.character:04X}") from None
    except ValueError as error:  # of what looks like a date and is none
        raise UserError(f"{path}: {first_line(error)}") from None


def load(raw: dict) -> Config:
    """Returns the typed configuration of a nested dictionary as YAML gives it.

    Resolves `base:` and `grid:` of runs and the overrides under `set`. Raises UserError with one line.
    """
    given, raw = raw, deepcopy(raw)
    override(raw, raw.pop("set", None) or "")
    for key in ENTRIES:
        if not isinstance(raw.get(key), dict):
            raise UserError(f"config: {key} must be a map of named entries, got {raw.get(key)!r}")
    made = made_from_nothing(given, raw)
    for key in ENTRIES[:-1]:
        raw[key] = {name: resolve(key, raw[key], name) for name in raw[key]}
    groups = {name: expand(raw["run"], name) for name in raw["run"]}
    raw["run"] = {name: run for group in groups.values() for name, run in group.items()}
    if isinstance(raw.get("runs"), list):
        named = (name for entry in raw["runs"] for name in groups.get(run_name(entry), [entry]))
        raw["runs"] = list(dict.fromkeys(named))
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        check_made(error, made, given)
        raise refusal(error, "config") from None
    check_names(config)
    return config


def run_name(entry: Any) -> str:
    """Returns an entry of `runs:`. Raises UserError where it is no name."""
    if isinstance(entry, str):
        return entry
    advice = "; leave out the colon" if isinstance(entry, dict) else "; put it in quotes"
    raise UserError(f"config: runs: expected names of runs, got {entry!r}{'' if isinstance(entry, list) else advice}")


def override(raw: dict, text: str) -> None:
    """Applies 'run.x.train.steps=50 run.x.sample.temperature=0' to a raw configuration, in place."""
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        raise UserError(f"config: set: {error} in {text!r}") from error
    for word in words:
        path, equals, value = word.partition("=")
        *parents, last = path.split(".")
        if not equals or not all(parents) or not last:
            raise UserError(f"config: set: expected key.key=value, got {word!r}")
        place = section(raw, parents, f"set: {path}")
        try:
            place[last] = yaml.load(value, Loader)
        except (yaml.YAMLError, ValueError) as error:  # the second of what looks like a date and is none
            problem = getattr(error, "problem", None) or first_line(error)
            raise UserError(f"config: set: {path}: cannot read {value!r}: {problem}") from error


def made_from_nothing(given: dict, raw: dict) -> set[tuple[str, str]]:
    """Returns (section, name) of the entries that only overrides made, without a base."""
    return {
        (kind, name)
        for kind in ENTRIES
        for name, entry in raw[kind].items()
        if name not in (given.get(kind) or {}) and isinstance(entry, dict) and "base" not in entry
    }


def check_made(error: ValidationError, made: set[tuple[str, str]], given: dict) -> None:
    """Raises UserError where what is missing is the rest of an entry that overrides made: its name was misspelt."""
    for problem in error.errors(include_url=False):
        if problem["type"] in ("missing", "union_tag_not_found") and problem["loc"][:2] in made:
            kind, name = problem["loc"][:2]
            known("set", "entry of weights" if kind == "weights" else kind, name, given.get(kind) or {})


def section(place: dict, keys: list[str], where: str) -> dict:
    """Returns the section that keys lead to, one after the other; it is made where there is none, or null."""
    for key in keys:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise UserError(f"config: {where}: {key} is no section")
    return place


def merge(base: dict, change: dict) -> dict:
    """Returns base with the change laid over it, section by section; lists are replaced."""
    result = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def resolve(kind: str, entries: dict, name: str, seen: tuple[str, ...] = ()) -> dict:
    """Returns a named entry with its chain of `base:` laid under it."""
    if name in seen:
        raise UserError(f"config: {kind}.{name}: base goes in a circle: {' -> '.join((*seen, name))}")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise UserError(f"config: {kind}.{name} must be a map, got {entry!r}")
    if "base" not in entry:
        return entry
    base = entry["base"]
    if not isinstance(base, str):
        raise UserError(f"config: {kind}.{name}.base must be the name of a {kind}, got {base!r}")
    if base not in entries:
        raise UserError(f"config: {kind}.{name}.base: no {kind} is called {base!r}{did_you_mean(base, entries)}")
    # the weights of a mixture are one value: those of the base would only change what the others come to
    own = {"grid", "corpus"} if isinstance(entry.get("corpus"), dict) else {"grid"}
    under = {key: value for key, value in resolve(kind, entries, base, (*seen, name)).items() if key not in own}
    return merge(under, {key: value for key, value in entry.items() if key != "base"})


def expand(runs: dict, name: str) -> dict[str, dict]:
    """Returns the runs an entry stands for: itself, or one per point of its `grid:`."""
    run = dict(resolve("run", runs, name))
    grid = run.pop("grid", None)
    if grid is None:
        return {name: run}
    pairs = grid.items() if isinstance(grid, dict) else ()
    if not pairs or not all(isinstance(key, str) and isinstance(values, list) and values for key, values in pairs):
        raise UserError(f"config: run.{name}.grid must map dotted keys to lists of values, got {grid!r}")
    short = {key: key.rpartition(".")[2] for key in grid}
    short = short if len(set(short.values())) == len(short) else {key: key for key in grid}
    points = {}
    for values in itertools.product(*grid.values()):
        point = deepcopy(run)
        for key, value in zip(grid, values, strict=True):
            *parents, last = key.split(".")
            section(point, parents, f"run.{name}.grid: {key}")[last] = value
        label = "-".join(f"{short[key]}={word(value)}" for key, value in zip(grid, values, strict=True))
        called = f"{name}-{label}"
        if called in points or called in runs:
            raise UserError(f"config: run.{name}.grid: two runs would be called {called}; give one a name of its own")
        points[called] = point
    return points


def word(value: Any) -> str:
    """Returns a value as it stands in a run's name, in characters that names may have."""
    if isinstance(value, dict):
        return "+".join(f"{word(key)}={word(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return "-".join(map(word, value)) or "none"
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", str(value))


def parse(kind: type[BaseModel], data: Any, where: str) -> Any:
    """Returns data as the typed model `kind`. Raises UserError: one line that names the key."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise refusal(error, where) from None


def refusal(error: ValidationError, where: str) -> UserError:
    """Returns the first problem as one line, with how many more there are."""
    problems = error.errors(include_url=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    line = problem_line(problems[0]).replace("\n", "\\n")  # of what was given
    return UserError(f"{where}: {line}{more}")


def problem_line(problem: dict) -> str:
    """Returns one pydantic error as 'run.x.train.steps: what is wrong, got 3'."""
    path = [str(part) for part in problem["loc"]]
    no_source = problem["type"] in ("union_tag_invalid", "union_tag_not_found")
    sources = SOURCES.get(path[0], {}) if path else {}
    if sources and not no_source:
        # the source that was chosen stands in the location, a key nobody wrote: after the entry's name, if it has one
        tag = next((place for place in (2, 1) if place < len(path) and path[place] in sources), len(path))
        del path[tag : tag + 1]
    key = ".".join(path) or "top level"
    if problem["type"] == "missing":
        whole = len(path) == 3 and path[0] in ENTRIES
        return f"{key} is missing{f'; base: would take it from another {path[0]}' if whole else ''}"
    if no_source:
        tag = "kind" if path[0] == "tokenizer" else "source"
        given = problem["input"].get(tag) if isinstance(problem["input"], dict) else problem["input"]
        return f"{key}.{tag} must be one of {', '.join(sources)}, got {given!r}{did_you_mean(str(given), sources)}"
    if problem["type"] == "unknown":
        unknown, there = problem["ctx"]["key"], problem["ctx"]["known"]
        return f"{key}: unknown key {unknown!r}{hint(unknown, there)}"
    if path[-1:] == ["[key]"] and problem["type"] == "string_type":
        return f"{'.'.join(path[:-2])}: a name must be text, got {problem['input']!r}; put it in quotes"
    if path[-1:] == ["[key]"] and problem["type"] == "string_pattern_mismatch":
        rule = "a name begins with a letter or digit and goes on with those and ._=+-"
        return f"{'.'.join(path[:-2])}: {rule}, got {problem['input']!r}"
    if path[-1:] == ["[key]"] and problem["type"] == "string_too_long":
        name, most = problem["input"], problem["ctx"]["max_length"]
        return f"{'.'.join(path[:-2])}: a name has at most {most} characters, that of {name[:40]!r}... has {len(name)}"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{key} must be a map, got {problem['input']!r}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    own = isinstance(problem["input"], dict | BaseModel)
    return f"{key}: {message}" if own else f"{key}: {message}, got {problem['input']!r}"


def hint(key: Any, known: list[str]) -> str:
    """Returns where a misspelt or misplaced key probably belongs, or what there is."""
    near = did_you_mean(str(key), known)
    home = next((name for name, keys in RUN_SECTIONS.items() if key in keys), None)
    if "run" in known and key in Run.model_fields:  # at the top level
        home = "run.<name>"
    if near or not home:
        return near or f"; known here: {', '.join(known)}"
    return f"; it belongs under {home}:"


def check_names(config: Config) -> None:
    """Raises UserError where an entry names another that does not exist, or one that does not go with it."""
    for name, tokenizer in config.tokenizer.items():
        if isinstance(tokenizer, LEARNED):
            known(f"tokenizer.{name}.corpus", "corpus", tokenizer.corpus, config.corpus)
            if config.corpus[tokenizer.corpus].source == "tokens":
                raise UserError(
                    f"config: tokenizer.{name}.corpus: {tokenizer.corpus} has tokens and no text to learn from;"
                    " take kind: tiktoken, or another corpus"
                )
    for name, run in config.run.items():
        for corpus in run.corpora:
            known(f"run.{name}.corpus", "corpus", corpus, config.corpus)
        for corpus in run.evaluate.sets:
            known(f"run.{name}.evaluate.sets", "corpus", corpus, config.corpus)
        for task in run.tasks:
            known(f"run.{name}.tasks", "task", task, config.task)
        known(f"run.{name}.tokenizer", "tokenizer", run.tokenizer, config.tokenizer)
        wanting = {"model.mask_documents": run.model.mask_documents, "train.order: packed": run.train.order == "packed"}
        for key in (key for key, wants in wanting.items() if wants):
            if not config.tokenizer[run.tokenizer].end_of_text:
                raise UserError(
                    f"config: run.{name}.{key} needs the token that parts documents;"
                    f" set tokenizer.{run.tokenizer}.end_of_text"
                )
    for name in config.run:
        check_start(config, name)
    for name in config.runs:
        known("runs", "run", name, config.run)


def known(where: str, kind: str, name: str, entries: dict) -> None:
    """Raises UserError where none of the entries has this name."""
    if name not in entries:
        there = did_you_mean(name, entries) or f"; there are: {', '.join(entries) or 'none'}"
        raise UserError(f"config: {where}: no {kind} is called {name!r}{there}")


def check_start(config: Config, name: str) -> None:
    """Raises UserError where a run starts from what does not exist, from itself or from another vocabulary."""
    chain, run = [name], config.run[name]
    if run.start and run.start.weights:
        known(f"run.{name}.start.weights", "entry of weights", run.start.weights, config.weights)
    while run.start and run.start.run:
        other = run.start.run
        known(f"run.{chain[-1]}.start.run", "run", other, config.run)
        if other in chain:
            raise UserError(f"config: run.{name}.start.run goes in a circle: {' -> '.join([*chain, other])}")
        if config.run[other].tokenizer != run.tokenizer:
            raise UserError(
                f"config: run.{chain[-1]}.start.run: {other} has the tokenizer {config.run[other].tokenizer},"
                f" {chain[-1]} has {run.tokenizer}; take the same one"
            )
        chain.append(other)
        run = config.run[other]
