"""What the tests share: a session, and the demo's model, labels and pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlet_accel import Resource, Session

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is configured on this machine does not change a test."""
    for name in os.environ:
        if name.startswith(("KERNLET_ACCEL_", "VACCEL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


@pytest.fixture(scope="module")
def classifier() -> Iterator[Session]:
    """A session that has the demo's model and labels, so that a module loads the model once."""
    with Session() as session:
        session.register("model", Resource.from_file(MODELS / "mobilenet_v2_fp16w.onnx", kind="model"))
        session.register("labels", Resource.from_file(MODELS / "imagenet_classes.txt"))
        yield session


@pytest.fixture
def models() -> Path:
    return MODELS
