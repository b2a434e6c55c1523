"""Compiled programs are kept for each kind of machine and number of threads apart."""

from pathlib import Path

import jax
import pytest

from makelm import programs

CPU = "processor : 0\nmodel name : Fast\ncpu MHz : {}\nflags : fma {}\n"


@pytest.fixture(autouse=True)
def restored():
    """Leaves JAX as it was."""
    keys = ("compilation_cache_dir", "compilation_cache_max_size", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{key}": getattr(jax.config, f"jax_{key}") for key in keys}
    yield
    for key, value in before.items():
        jax.config.update(key, value)


def folder(monkeypatch, root, cores):
    monkeypatch.setenv(programs.FOLDER, str(root))
    programs.keep(cores)
    return jax.config.jax_compilation_cache_dir


def test_each_number_of_threads_has_its_folder(monkeypatch, tmp_path):
    first, same, other = (folder(monkeypatch, tmp_path, cores) for cores in (2, 2, 3))
    assert first == same != other and first.startswith(str(tmp_path)) and first.endswith("-2")


def test_without_a_folder_jax_is_left_as_it_is(monkeypatch):
    monkeypatch.delenv(programs.FOLDER, raising=False)
    before = jax.config.jax_compilation_cache_dir
    programs.keep(2)
    assert jax.config.jax_compilation_cache_dir == before


def test_what_uses_a_run_keeps_programs_where_its_workflow_does(monkeypatch, tmp_path):
    run = tmp_path / "results/train_model/a"
    run.mkdir(parents=True)
    assert programs.of_workflow(run) is None, "the run was copied here"
    (tmp_path / ".snakemake").mkdir()
    assert programs.of_workflow(run) == tmp_path / ".snakemake/compiled"
    monkeypatch.chdir(run)
    assert programs.of_workflow(Path()) == tmp_path / ".snakemake/compiled"
    monkeypatch.delenv(programs.FOLDER, raising=False)
    programs.keep(2, tmp_path / "own")
    assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path / "own"))
    assert folder(monkeypatch, tmp_path / "named", 2).startswith(str(tmp_path / "named")), "what is named comes first"


def test_a_processor_is_known_by_its_instructions(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "PROCESSORS", tmp_path / "cpuinfo")

    def name(speed, flags):
        programs.PROCESSORS.write_text(CPU.format(speed, flags))
        return programs.processor()

    assert name(2500, "avx2") == name(3100, "avx2") != name(2500, "avx512f")
