"""An agent in another process, used by configuration alone. ``KERNLET_PROGRAM`` names the program."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kernlet_accel import Session


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    program = os.environ.get("KERNLET_PROGRAM")
    if program is None:
        assert os.environ.get("KERNLET_REQUIRE_NATIVE") != "1", "KERNLET_PROGRAM must name the program kernlet"
        pytest.skip("KERNLET_PROGRAM DOES NOT NAME THE PROGRAM kernlet")
    address = f"unix://{tmp_path}/agent.sock"
    process = subprocess.Popen(
        [program, "accel", "agent", "--listen", address, "--plugins", "noop,gemm"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() != "", "the agent did not come up"
        yield address
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_python_program_uses_an_agent_by_configuration_alone(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNLET_ACCEL_AGENT", agent)
    # What is next to no work is done here, so it has to be worth the way.
    a, b, c = (np.full((256, 256), value, dtype=np.float32) for value in (1, 2, 0))
    with Session() as session:
        session.sgemm(a, b, c)
        assert session.last_report is not None
        assert session.last_report.plugin == "remote"
    assert (c == 512).all()


def test_a_configuration_file_names_the_agent(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "accel.toml"
    config.write_text(f'agent = "near"\n[agents]\nnear = "{agent}"\n')
    monkeypatch.setenv("KERNLET_ACCEL_CONFIG", str(config))
    a = np.ones((256, 256), dtype=np.float32)
    for session in (Session(), Session(agent="near")):
        with session:
            session.sgemm(a, a)
            assert session.last_report is not None
            assert session.last_report.plugin == "remote"
    with pytest.raises(ConnectionError, match='no accelerator agent "far", only near'):
        Session(agent="far")


def test_an_agent_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="missing.sock"):
        Session(agent=f"unix://{tmp_path}/missing.sock")
