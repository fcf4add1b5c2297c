"""Sessions: resources, limits, closing, errors, profile, threads."""

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kernlet_accel import (
    OPERATIONS,
    AccelError,
    BusyError,
    DeadlineError,
    DeniedError,
    InvalidError,
    Kind,
    LimitError,
    NotFoundError,
    Resource,
    Session,
    UnsupportedError,
)
from kernlet_accel.model import Framework


def square(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.ones((size, size), np.float32)


class TestResources:
    """What is registered is found, by its owner alone, until it is taken back."""

    def test_ids_count_up_and_are_never_given_again(self, session: Session) -> None:
        one = Resource.from_bytes(b"one")
        assert session.register("one", one) == 1
        assert session.register("two", Resource.from_bytes(b"two")) == 2
        assert session.unregister("one").size == 3
        assert session.find("one") is None
        assert session.register("one", one) == 3
        assert [resource.name for resource in session.resources()] == ["two", "one"]
        assert session.unregister(2).size == 3

    def test_sessions_never_see_each_others_resources(self, session: Session) -> None:
        with Session() as other:
            id = other.register("theirs", Resource.from_bytes(b"secret"))
            assert session.find("theirs") is None
            with pytest.raises(NotFoundError):
                session.unregister(id)

    def test_a_resource_may_be_in_several_sessions(self, session: Session) -> None:
        resource = Resource.from_bytes(b"shared")
        with Session() as other:
            other.register("it", resource)
            session.register("it", resource)
        assert session.unregister("it").size == 6

    @pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\0b"])
    def test_a_name_that_is_none_is_refused(self, session: Session, name: str) -> None:
        with pytest.raises(InvalidError, match="cannot name a resource"):
            session.register(name, Resource.from_bytes(b""))

    def test_a_name_is_given_once(self, session: Session) -> None:
        session.register("it", Resource.from_bytes(b""))
        with pytest.raises(InvalidError, match="already has"):
            session.register("it", Resource.from_bytes(b""))

    def test_what_is_not_there_cannot_be_taken_back(self, session: Session) -> None:
        for unknown in ("it", 0, -1, 1, 2**31, 2**40):
            with pytest.raises(NotFoundError):
                session.unregister(unknown)
        with pytest.raises(TypeError):
            session.unregister(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            session.register("it", b"bytes")  # type: ignore[arg-type]

    def test_files_are_read_once(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.txt"
        path.write_bytes(b"before")
        resource = Resource.from_file(path)
        path.write_bytes(b"afterwards")
        assert (resource.size, resource.files, resource.kind) == (6, [("labels.txt", 6)], "data")
        path.unlink()
        assert resource.size == 6

    def test_folders_and_several_files_keep_their_names(self, tmp_path: Path) -> None:
        (tmp_path / "variables").mkdir()
        (tmp_path / "saved_model.pb").write_bytes(b"model")
        (tmp_path / "variables" / "data").write_bytes(b"v")
        (tmp_path / "link").symlink_to("/etc/passwd")
        folder = Resource.from_dir(str(tmp_path))
        assert folder.files == [("saved_model.pb", 5), ("variables/data", 1)]
        assert folder.kind == "model"
        several = Resource.from_files([tmp_path / "variables" / "data", tmp_path / "saved_model.pb"], kind="library")
        assert [name for name, _ in several.files] == ["data", "saved_model.pb"]

    def test_files_that_cannot_be_resources_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="missing") as caught:
            Resource.from_file(tmp_path / "missing")
        assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOENT
        with pytest.raises(InvalidError, match="is not a file"):
            Resource.from_file(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidError, match="is not a file"):
            Resource.from_file(tmp_path / "pipe")
        with pytest.raises(AccelError):
            Resource.from_dir(tmp_path / "missing")
        huge = tmp_path / "huge"
        with huge.open("wb") as file:
            file.truncate(10 * 1024**3)
        with pytest.raises(LimitError, match="a resource may have"):
            Resource.from_file(huge)
        with pytest.raises(ValueError, match="at least one file"):
            Resource.from_files([])
        with pytest.raises(ValueError, match="no kind of resource"):
            Resource.from_bytes(b"", kind="picture")
        for wrong in (None, 5, "text"):
            with pytest.raises(TypeError):
                Resource.from_bytes(wrong)  # type: ignore[arg-type]

    def test_quotas_hold(self) -> None:
        with Session(resources=1) as session:
            session.register("one", Resource.from_bytes(b"1"))
            with pytest.raises(LimitError, match="one too many"):
                session.register("two", Resource.from_bytes(b"2"))
        with Session(resource_bytes=4) as session, pytest.raises(LimitError, match="does not fit") as caught:
            session.register("one", Resource.from_bytes(b"12345"))
        assert isinstance(caught.value, MemoryError)


def test_a_closed_session_refuses_everything() -> None:
    session = Session()
    with session:
        assert not session.closed
    session.close()
    assert session.closed
    calls = [
        session.noop,
        session.plugins,
        session.resources,
        session.preload,
        session.profile,
        lambda: session.find("x"),
        lambda: session.unregister(1),
        lambda: session.register("x", Resource.from_bytes(b"")),
        lambda: session.sgemm(square(2), square(2)),
        lambda: session.classify(b"x"),
        lambda: session.load("x"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="the session is closed"):
            call()


def test_an_operation_goes_to_the_plugin_that_is_asked_for(session: Session) -> None:
    with Session(hint="gemm") as hinted:
        hinted.sgemm(square(2), square(2))
        assert hinted.last_report is not None and hinted.last_report.plugin == "gemm"
    session.prefer("nobody", strict=True)
    with pytest.raises(UnsupportedError, match="only plugin nobody is to be used"):
        session.sgemm(square(2), square(2))
    session.prefer(Kind.FPGA)
    session.sgemm(square(2), square(2))
    session.prefer(Kind.CPU | Kind.SOFTWARE)
    session.prefer(None)
    with pytest.raises(TypeError, match="hint"):
        session.prefer(1.5)  # type: ignore[arg-type]
    assert session.last_report is not None


def test_plugins_say_what_they_have(session: Session) -> None:
    there = {plugin.name: plugin for plugin in session.plugins() if plugin.absent is None}
    assert "blas-sgemm" in there["gemm"].operations
    assert Kind.CPU in there["gemm"].kinds
    assert set(there["rten"].operations) <= set(OPERATIONS)


def test_an_unknown_plugin_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no plugin \"nosuch\""):
        Session(plugins=["nosuch"])
    with pytest.raises(TypeError, match="sequence of names"):
        Session(plugins="gemm")


def test_a_missing_operation_names_the_plugins_there_are() -> None:
    with Session(plugins=["gemm"]) as session:
        with pytest.raises(UnsupportedError, match="no plugin has image-classify; loaded are gemm") as caught:
            session.classify(b"x")
        assert isinstance(caught.value, NotImplementedError)


def test_the_environment_and_a_file_configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VACCEL_PLUGINS", "gemm")
    monkeypatch.setenv("VACCEL_PROFILING_ENABLED", "1")
    with Session() as session:
        assert [plugin.name for plugin in session.plugins() if plugin.absent is None] == ["gemm"]
        assert session.profiling
    with Session(plugins=["noop"], profiling=False) as session:
        assert not session.profiling
        session.noop()
    path = tmp_path / "accel.toml"
    path.write_text("plugins = ['noop']\nresources = 1\n")
    with Session(config=path) as session:
        assert [plugin.name for plugin in session.plugins() if plugin.absent is None] == ["noop"]
    path.write_text("plugin = ['noop']\n")
    with pytest.raises(ValueError, match="unknown field `plugin`"):
        Session(config=path)
    monkeypatch.setenv("VACCEL_PROFILING_ENABLED", "maybe")
    with pytest.raises(ValueError, match="VACCEL_PROFILING_ENABLED"):
        Session()


def test_time_that_is_over_is_an_error_before_the_operation_begins(session: Session) -> None:
    c = np.full((2, 2), 9, np.float32)
    with pytest.raises(DeadlineError, match="time was over") as caught:
        session.sgemm(square(2), square(2), c, timeout=0)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.errno == errno.ETIMEDOUT
    assert (c == 9).all()
    with Session(operation_time=0) as limited, pytest.raises(DeadlineError):
        limited.noop(timeout=60)
    session.noop(timeout=60)


def test_regions_are_recorded_while_profiling_is_on(session: Session) -> None:
    session.noop()
    assert session.profile() == {}
    session.profiling = True
    session.noop()
    with pytest.raises(UnsupportedError):
        session.pose(b"picture")
    with pytest.raises(RuntimeError), session.region("mine"):
        raise RuntimeError
    regions = session.profile()
    assert regions["noop (noop)"].entries == 1
    assert regions["image-pose (failed)"].entries == 1
    mine = regions["mine"]
    assert mine.entries == 1 and 0 <= mine.min == mine.max == mine.total
    with pytest.raises(ValueError, match="cannot name a region"), session.region("a\nb"):
        pass
    session.clear_profile()
    assert session.profile() == {}


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda s: s.detect(b"x"), "image-detect"),
        (lambda s: s.segment(b"x"), "image-segment"),
        (lambda s: s.pose(b"x"), "image-pose"),
        (lambda s: s.depth(b"x"), "image-depth"),
        (lambda s: s.torch_sgemm(square(2), square(2)), "torch-sgemm"),
        (lambda s: s.array_copy(np.zeros(3, np.int32)), "fpga-array-copy"),
        (lambda s: s.mmult(square(2), square(2)), "fpga-mmult"),
        (lambda s: s.parallel(square(2), square(2)), "fpga-parallel"),
        (lambda s: s.vector_add(square(2), square(2)), "fpga-vector-add"),
        (lambda s: s.minmax(np.zeros(3), 0, 1), "minmax"),
        (lambda s: s.exec("lib", "f", [1, 2.0, "x", b"x", True, square(2)], [square(2)]), "exec"),
        (lambda s: s.exec_with_resource(Resource.from_bytes(b"x"), "f"), "exec-with-resource"),
        (lambda s: s.opencv([square(2)], [bytearray(4)]), "opencv"),
        (lambda s: s.resize(np.zeros((2, 2, 3), np.uint8), (1, 1)), "image-resize"),
        (lambda s: s.load(Resource.from_bytes(b"x"), "torch"), "torch-model-load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_operation_reaches_the_runtime(operation, name) -> None:  # type: ignore[no-untyped-def]
    with Session(plugins=["mbench"]) as session, pytest.raises(UnsupportedError, match=name):
        operation(session)


def test_every_operation_has_a_result() -> None:
    """By the dummies of plugin noop, which has each operation; what they are is its own affair."""
    with Session(plugins=["noop"]) as session:
        assert [one.label for one in session.classify(b"x")]
        for picture in (session.detect, session.segment, session.pose, session.depth):
            assert picture(b"x")
        assert session.sgemm(square(2), square(2)).shape == (2, 2)
        assert session.torch_sgemm(square(2), square(2)).shape == (2, 2)
        assert session.mmult(square(2), square(2)).shape == (2, 2)
        assert session.array_copy(np.zeros(3, np.int32)).shape == (3,)
        assert session.vector_add(square(2), square(2)).shape == (2, 2)
        assert [array.shape for array in session.parallel(square(2), square(2))] == [(2, 2), (2, 2)]
        assert session.minmax(np.zeros(3), 0, 1)[2].shape == (3,)
        assert session.resize(np.zeros((2, 2, 3), np.uint8), (4, 5)).shape == (4, 5, 3)
        resource = Resource.from_bytes(b"x")
        assert len(session.exec("library", "f", [1, "x", square(2)], [square(2)])) == 1
        assert len(session.exec_with_resource(resource, "f", [], [bytearray(4)])) == 1
        assert len(session.opencv([square(2)], [square(2), bytearray(4)])) == 2
        frameworks: tuple[Framework, ...] = ("onnx", "tensorflow", "tflite", "torch")
        for framework in frameworks:
            with session.load(resource, framework) as model:
                assert len(model.run(square(2), names=["in:0", "out:0"])) == 1
                if framework == "onnx":
                    assert len(model.run_batch([square(2), square(2)])) == 2
                else:
                    with pytest.raises(UnsupportedError, match="one set of inputs"):
                        model.run_batch([square(2)])


def test_an_arrays_own_address_reaches_the_plugin(tmp_path: Path) -> None:
    source, library = tmp_path / "addresses.c", tmp_path / "libaddresses.so"
    source.write_text("""
        #include <stddef.h>
        #include <stdint.h>
        struct vaccel_arg { void *buf; size_t size; uint32_t type, custom; _Bool owned; };
        int addresses(struct vaccel_arg *read, size_t reads, struct vaccel_arg *write, size_t writes) {
            if (reads != 2 || writes != 1 || *(int64_t *)read[1].buf != 7) return 1;
            ((uint64_t *)write[0].buf)[0] = (uint64_t)read[0].buf;
            ((uint64_t *)write[0].buf)[1] = (uint64_t)write[0].buf;
            return 0;
        }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    config = tmp_path / "accel.toml"
    config.write_text(f"plugins = ['exec']\n[exec.libraries]\naddresses = '{library}'\n")
    read, write = square(64), np.zeros(2, np.uint64)
    with Session(config=config) as session:
        session.exec("addresses", "addresses", [read, 7], [write])
        assert session.last_report is not None and session.last_report.bytes_copied == 0
        assert write.tolist() == [read.ctypes.data, write.ctypes.data]
        with pytest.raises(AccelError):
            session.exec("addresses", "addresses", [read, 8], [write])
        with pytest.raises(DeniedError):
            session.exec(str(library), "addresses", [read, 7], [write])
        with pytest.raises(AccelError):
            session.exec("addresses", "nosuch", [], [])


def test_a_generic_operation_is_the_one_that_it_names(session: Session) -> None:
    a, b, c = square(3), square(3) * 2, np.zeros((3, 3), np.float32)
    f32 = np.float32
    read = [3, 3, 3, f32(1), a, 3, b, 3, f32(0), 3]
    assert session.generic("blas-sgemm", read, [c]) == [36]
    assert (c == 6).all()
    session.generic("noop")
    with pytest.raises(InvalidError):
        session.generic("blas-sgemm", [2**62, *read[1:]], [c])
    with pytest.raises(AccelError):
        session.generic("blas-sgemm", read[:4], [c])
    with pytest.raises(ValueError, match="no operation 'nosuch'"):
        session.generic("nosuch")
    for without in ("onnx-model-run", 0x100, -1):
        with pytest.raises(ValueError, match="no layout of vAccel's"):
            session.generic(without)
    with pytest.raises(UnsupportedError):
        session.generic(200)
    with pytest.raises(OverflowError):
        session.generic("noop", [2**63])
    for wrong in (None, object(), [1]):
        with pytest.raises(TypeError):
            session.generic("noop", [wrong])
    for wrong in (None, 5, "text", [1]):
        with pytest.raises(TypeError):
            session.generic("noop", [], [wrong])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="read-only"):
        session.generic("noop", [], [b"bytes"])


class TestThreads:
    """Sessions are used from many threads, and other threads run on while an operation does."""

    def test_other_threads_run_on_while_an_operation_runs(self, session: Session) -> None:
        a = square(1024)
        done = threading.Event()
        counts = []

        def multiply() -> None:
            for _ in range(20):
                session.sgemm(a, a)
            done.set()

        worker = threading.Thread(target=multiply)
        # Without the lock being released, nothing is counted between the beginning of one operation and its end.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)
        try:
            worker.start()
            count = 0
            while not done.wait(0.001):
                count += 1
            counts.append(count)
        finally:
            sys.setswitchinterval(interval)
        worker.join()
        assert counts[0] > 0

    def test_an_array_that_an_operation_uses_is_nobody_elses(self, session: Session) -> None:
        a, c = square(512), np.zeros((512, 512), np.float32)
        finished = threading.Event()
        refused: list[str] = []

        def write() -> None:
            while not refused and not finished.is_set():
                try:
                    session.sgemm(a, a, c)
                except ValueError as error:
                    refused.append(str(error))

        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(write) for _ in range(2)]
            try:
                for one in running:
                    one.result(timeout=120)
            finally:
                finished.set()
        assert "shares memory" in refused[0]

    def test_memory_in_use_cannot_be_resized(self, session: Session) -> None:
        memory = bytearray(4 * 1024 * 1024)
        c = memoryview(memory).cast("f", (1024, 1024))
        a = square(1024)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(session.sgemm, a, a, c)  # type: ignore[arg-type]
            with pytest.raises(BufferError):
                memory.clear()
            running.result()

    def test_two_sessions_may_race_to_unregister(self, session: Session) -> None:
        for _ in range(50):
            id = session.register("it", Resource.from_bytes(b"x"))
            with ThreadPoolExecutor(4) as threads:
                attempts = [threads.submit(session.unregister, id) for _ in range(4)]
            failed = [attempt.exception() for attempt in attempts]
            assert failed.count(None) == 1
            assert all(error is None or isinstance(error, NotFoundError) for error in failed)

    def test_a_resource_may_be_unregistered_and_a_session_closed_under_an_operation(self, models: Path) -> None:
        session = Session()
        session.register("model", Resource.from_file(models / "mobilenet_v2_fp16w.onnx"))
        picture = (models / "pictures" / "cat.jpg").read_bytes()
        best = session.classify(picture, "model", count=1)
        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(session.classify, picture, "model", count=1) for _ in range(4)]
            session.unregister("model")
            session.close()
            for one in running:
                error = one.exception()
                assert one.result() == best if error is None else isinstance(error, ValueError | NotFoundError)

    def test_more_operations_than_allowed_are_refused(self) -> None:
        with Session(concurrency=0) as session, pytest.raises(BusyError, match="too many") as caught:
            session.noop()
        assert isinstance(caught.value, BlockingIOError)

    def test_reports_are_each_threads_own(self, session: Session) -> None:
        session.noop()
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(lambda: session.last_report).result() is None
        assert session.last_report is not None


def test_ctrl_c_ends_a_program_between_operations() -> None:
    program = """
import numpy as np
from kernlet_accel import Session
with Session() as session:
    a = np.ones((256, 256), np.float32)
    try:
        print("begun", flush=True)
        while True:
            session.sgemm(a, a)
    except KeyboardInterrupt:
        session.noop()
        print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert out.read() == "interrupted\n"
    assert process.wait() == 0
