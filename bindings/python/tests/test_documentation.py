"""Every example in the documentation runs."""

import doctest
from pathlib import Path
from types import ModuleType

import pytest

import kernlet_accel
from kernlet_accel import errors, model, session

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def in_the_models_folder(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.chdir(models)


@pytest.mark.parametrize("module", [kernlet_accel, errors, model, session], ids=lambda module: module.__name__)
def test_every_example_of_a_docstring_runs(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_the_examples_of_the_readme_run() -> None:
    result = doctest.testfile(str(README), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize("name", kernlet_accel.__all__)
def test_whatever_is_exported_is_explained(name: str) -> None:
    thing = getattr(kernlet_accel, name)
    if name.startswith("__") or isinstance(thing, dict):
        return
    assert thing.__doc__
    for member, value in vars(thing).items():
        if not member.startswith("_") and (callable(value) or isinstance(value, property)):
            assert value.__doc__, f"{name}.{member} has no docstring"
