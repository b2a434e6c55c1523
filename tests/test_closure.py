"""The code of a stage: what belongs to it, and that a change of it is seen."""

import ast
import shutil

import pytest

from makelm import closure, stages

LIBRARY = closure.SCRIPTS / "makelm"
ALL_STAGES = sorted(stages.STAGES)


def library_imports(module: str) -> set[str]:
    """Returns the modules of the library that one of them imports."""
    names = closure.imports(LIBRARY / f"{module}.py")
    named = {name.split(".")[1] for name in names if name.startswith("makelm.")}
    return {name for name in named if (LIBRARY / f"{name}.py").exists()}


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A copy of scripts/ that may be edited; closures are looked up in it."""
    copy = tmp_path / "scripts"
    shutil.copytree(closure.SCRIPTS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(closure, "SCRIPTS", copy)
    closure.closure.cache_clear()
    yield copy
    closure.closure.cache_clear()


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_no_plumbing_is_in_a_closure(stage):
    names = {path.stem for path in closure.closure(stage).files}
    assert stage in names
    assert not names & closure.PLUMBING


@pytest.mark.parametrize("module", sorted(closure.PLUMBING))
def test_plumbing_imports_nothing_of_data_or_model(module):
    """So nothing that decides a result can hide where a change of it reruns nothing."""
    assert library_imports(module) <= closure.PLUMBING
    heavy = {"jax", "flax", "optax", "numpy", "tiktoken", "tokenizers", "datasets", "orbax", "safetensors"}
    assert not {name.split(".")[0] for name in closure.imports(LIBRARY / f"{module}.py")} & heavy


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("config*.py")), ids=lambda path: path.stem)
def test_the_typed_configuration_holds_no_defaults(path):
    """A default there would be a value that no stage's parameter has."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
            assert all(field.value is None for field in fields), f"{node.name} has a default"


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_every_library_module_a_stage_loads_is_in_its_closure_or_plumbing(stage):
    reached = {path.stem for path in closure.closure(stage).files if path.parent == LIBRARY and path.suffix == ".py"}
    for module in reached:
        assert library_imports(module) <= reached | closure.PLUMBING


def test_an_edited_module_changes_the_digest_of_the_stages_that_import_it(scripts):
    before = {stage: closure.closure(stage).digest() for stage in ALL_STAGES}
    with (scripts / "makelm" / "generate.py").open("a") as file:
        file.write("# edited\n")
    changed = {stage for stage in ALL_STAGES if closure.closure(stage).digest() != before[stage]}
    assert changed == {"sample_model", "evaluate_task"}


def test_to_talk_to_a_model_is_no_part_of_its_samples():
    assert "interactive" not in {path.stem for path in closure.closure("sample_model").files}


def test_an_edited_template_changes_the_digest(scripts):
    before = closure.closure("write_report").digest()
    template = next(path for path in closure.closure("write_report").files if path.suffix == ".j2")
    template.write_text(template.read_text() + "\n")
    assert closure.closure("write_report").digest() != before


def test_what_editors_and_patches_leave_beside_a_module_changes_no_digest(scripts):
    before = closure.closure("train_model").digest()
    for name in ("model.py~", "model.py.orig", "model.py.swp", ".#model.py", "#model.py#", "model.pyc"):
        (scripts / "makelm" / name).write_text("x = 1\n")
    closure.closure.cache_clear()
    assert closure.closure("train_model").digest() == before


def test_every_kind_of_data_file_is_seen():
    there = {path.suffix for path in LIBRARY.iterdir() if path.is_file()}
    assert there == closure.SUFFIXES


def test_the_digest_is_of_names_and_bytes_and_not_of_the_place_or_the_time(scripts):
    (scripts / "makelm" / "model.py").touch()
    there = closure.closure("train_model").digest()
    closure.closure.cache_clear()
    closure.SCRIPTS = LIBRARY.parent  # undone by the fixture
    assert closure.closure("train_model").digest() == there


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_every_imported_package_is_locked_and_installed(stage):
    packages = closure.closure(stage).packages
    locked = closure.locked_versions((closure.LOCK).read_text())
    assert {name: locked[name] for name in packages} == closure.installed_versions(packages)


def test_developers_tools_are_in_no_stages_set():
    tools = {"ruff", "pytest", "snakefmt", "snakemake", "uv"}
    assert not tools & {package for stage in ALL_STAGES for package in closure.closure(stage).packages}


def test_the_locked_version_is_that_of_this_interpreter_and_system():
    lock = """
[[package]]
name = "thing"
version = "1.0"
resolution-markers = ["python_full_version < '3'"]

[[package]]
name = "thing"
version = "2.0"
resolution-markers = ["python_full_version >= '3'"]
"""
    assert closure.locked_versions(lock) == {"thing": "2.0"}
