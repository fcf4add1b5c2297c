"""Pictures and models: results, arrays in place, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from kernlet_accel import AccelError, InvalidError, Model, NotFoundError, Resource, Session, UnsupportedError
from kernlet_accel.model import Framework

def picture(models: Path) -> bytes:
    return (models / "pictures" / "cat.jpg").read_bytes()


def test_every_picture_gets_its_expected_class(classifier: Session, models: Path) -> None:
    _, *lines = (models / "expected.tsv").read_text().splitlines()
    assert lines
    for line in lines:
        name, index, label, probability, *_ = line.split("\t")
        found = classifier.classify((models / name).read_bytes(), "model", "labels", count=3)
        assert len(found) == 3
        assert (found[0].index, found[0].label) == (int(index), label)
        assert found[0].probability == pytest.approx(float(probability), abs=0.02)
        assert found[0].probability >= found[1].probability >= found[2].probability


def test_a_picture_in_bytes_is_not_copied_and_any_other_buffer_is_counted(classifier: Session, models: Path) -> None:
    data = picture(models)
    best = classifier.classify(data, count=1)
    assert classifier.last_report is not None
    assert classifier.last_report.bytes_copied == 0
    others: list[bytearray | npt.NDArray[np.uint8] | memoryview] = [
        bytearray(data),
        np.frombuffer(data, np.uint8),
        memoryview(data),
    ]
    for other in others:
        assert classifier.classify(other, count=1) == best
        assert classifier.last_report.bytes_copied == len(data)


def test_a_model_is_given_by_itself_its_name_its_id_or_not_at_all(classifier: Session, models: Path) -> None:
    data = picture(models)
    id = classifier.find("model")
    assert id is not None
    one, *others = [classifier.classify(data, model, count=1) for model in ("model", id, None)]
    assert all(other == one for other in others)
    with pytest.raises(NotFoundError, match="no resource \"unknown\""):
        classifier.classify(data, "unknown")
    for unknown in (0, -1, 99, 2**40):
        with pytest.raises(NotFoundError):
            classifier.classify(data, unknown)
    with pytest.raises(TypeError, match="Resource, name or id"):
        classifier.classify(data, 1.5)  # type: ignore[arg-type]


def test_what_is_no_picture_is_refused(classifier: Session, models: Path) -> None:
    with pytest.raises(ValueError, match="no bytes"):
        classifier.classify(b"")
    for data in (b"\0", b"not a picture at all", picture(models)[:1000]):
        with pytest.raises(InvalidError) as caught:
            classifier.classify(data)
        assert caught.value.errno == caught.value.status == 22
    for wrong in (None, 5, "picture"):
        with pytest.raises(TypeError, match="picture must be an array"):
            classifier.classify(wrong)  # type: ignore[arg-type]
    for count in (0, 65_537, 2**62):
        with pytest.raises(ValueError, match="count"):
            classifier.classify(picture(models), count=count)
    with pytest.raises(OverflowError):
        classifier.classify(picture(models), count=-1)


def test_a_model_of_the_wrong_kind_is_refused(classifier: Session, models: Path) -> None:
    for bytes_of in (b"", b"\x08", b"no model", (models / "mobilenet_v2_fp16w.onnx").read_bytes()[:100_000]):
        with pytest.raises(AccelError):
            classifier.classify(picture(models), Resource.from_bytes(bytes_of))
        with pytest.raises(AccelError):
            classifier.load(Resource.from_bytes(bytes_of))
    with pytest.raises(AccelError):
        classifier.classify(picture(models), "labels")


@pytest.fixture(scope="module")
def model(classifier: Session) -> Model:
    return classifier.load("model")


class TestModel:
    """The demo's model on tensors."""

    def input(self) -> npt.NDArray[np.float32]:
        return np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)

    def test_outputs_are_arrays_of_the_models_type_and_shape(self, model: Model) -> None:
        (logits,) = model.run(self.input())
        assert logits.shape == (1, 1000) and logits.dtype == np.float32
        assert logits.flags.writeable and logits.flags.c_contiguous
        logits += 1

    def test_an_output_that_is_kept_outlives_everything(self, models: Path) -> None:
        with Session() as session:
            with Model(session, Resource.from_file(models / "mobilenet_v2_fp16w.onnx")) as model:
                (logits,) = model.run([self.input()])
                (again,) = model.run([self.input()])
        del model, session
        np.testing.assert_array_equal(logits, again)
        assert np.isfinite(logits).all()

    def test_an_output_is_written_where_the_caller_wants_it(self, model: Model) -> None:
        (expected,) = model.run(self.input())
        room = np.full((1, 1000), 7, np.float32)
        (logits,) = model.run(self.input(), room)
        assert logits.ctypes.data == room.ctypes.data
        np.testing.assert_array_equal(room, expected)
        larger = np.full(1500, 7, np.float32)
        (logits,) = model.run(self.input(), [larger])
        assert logits.shape == (1, 1000) and logits.ctypes.data == larger.ctypes.data
        assert (larger[1000:] == 7).all()

    def test_a_batch_is_as_many_runs(self, model: Model) -> None:
        inputs = [self.input(), self.input() * 2, self.input() * 0]
        results = model.run_batch(inputs)
        for one, (result,) in zip(inputs, results, strict=True):
            np.testing.assert_allclose(result, model.run(one)[0], rtol=1e-4, atol=1e-4)
        rooms = [np.empty((1, 1000), np.float32) for _ in inputs]
        model.run_batch(inputs, rooms)
        np.testing.assert_allclose(rooms[1], results[1][0], rtol=1e-4, atol=1e-4)
        assert model.run_batch([]) == []
        with pytest.raises(ValueError, match="3 sets of inputs, and arrays for the outputs of 2"):
            model.run_batch(inputs, rooms[:2])

    def test_what_does_not_fit_the_model_is_refused(self, model: Model) -> None:
        for shape in ((1, 3, 224, 223), (1, 4, 224, 224), (1, 3, 0, 0), (1,), ()):
            with pytest.raises(InvalidError):
                model.run(np.zeros(shape, np.float32))
        with pytest.raises(AccelError):
            model.run(self.input().astype(np.float64))
        with pytest.raises(InvalidError):
            model.run([self.input(), self.input()])
        with pytest.raises(InvalidError):
            model.run([])
        with pytest.raises(InvalidError):
            model.run(self.input(), outputs=2)
        with pytest.raises(InvalidError):
            model.run(self.input(), outputs=0)
        with pytest.raises(ValueError, match="at most"):
            model.run(self.input(), outputs=2**40)
        with pytest.raises(TypeError):
            model.run(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="numpy.ascontiguousarray"):
            model.run(self.input().transpose(0, 1, 3, 2))
        with pytest.raises(ValueError, match="7 dimensions"):
            model.run(np.zeros((1,) * 7, np.float32))

    def test_room_that_does_not_fit_is_refused(self, model: Model) -> None:
        with pytest.raises(InvalidError) as caught:
            model.run(self.input(), np.zeros(999, np.float32))
        assert caught.value.errno == 34
        with pytest.raises(AccelError):
            model.run(self.input(), np.zeros(1000, np.int16))
        one = self.input()
        with pytest.raises(ValueError, match="shares memory"):
            model.run(one, one)
        frozen = np.zeros(1000, np.float32)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            model.run(one, frozen)

    def test_no_inputs_are_no_outputs(self, model: Model) -> None:
        (logits,) = model.run(np.zeros((0, 3, 224, 224), np.float32))
        assert logits.shape == (0, 1000)

    def test_not_a_number_goes_through(self, model: Model) -> None:
        (logits,) = model.run(np.full((1, 3, 224, 224), np.nan, np.float32))
        assert logits.shape == (1, 1000)


def test_a_framework_that_is_none_or_has_no_plugin_is_named(classifier: Session) -> None:
    with pytest.raises(ValueError, match="\"caffe\" is no framework"):
        classifier.load("model", "caffe")  # type: ignore[arg-type]
    frameworks: tuple[Framework, ...] = ("tensorflow", "tflite", "torch")
    for framework in frameworks:
        with pytest.raises(UnsupportedError, match="no plugin has .*-model-load"):
            classifier.load("model", framework)


class TestBfloat16:
    """Arrays of a type that another package adds to NumPy; vAccel's dummy gives back what it is given."""

    @pytest.fixture
    def dummy(self) -> Iterator[Model]:
        with Session(plugins=["noop"]) as session:
            yield session.load(Resource.from_bytes(b"any"), "torch")

    def test_bfloat16_goes_in_and_comes_out_as_ml_dtypes_has_it(self, dummy: Model) -> None:
        given = np.array([[1.5, -2.0], [0.0, np.inf]], ml_dtypes.bfloat16)
        (result,) = dummy.run(given)
        assert result.dtype == np.dtype(ml_dtypes.bfloat16) and result.shape == (2, 2)
        np.testing.assert_array_equal(result, given)
        room = np.zeros(6, ml_dtypes.bfloat16)
        (result,) = dummy.run(given, room)
        assert result.dtype == room.dtype and result.ctypes.data == room.ctypes.data
        np.testing.assert_array_equal(result, given)
        assert (room[4:] == 0).all()
        frozen = np.zeros(4, ml_dtypes.bfloat16)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            dummy.run(given, frozen)
        with pytest.raises(ValueError, match="numpy.ascontiguousarray"):
            dummy.run(given.T)

    def test_bfloat16_comes_out_as_uint16_where_nobody_has_it(
        self, dummy: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kernlet_accel.model._BFLOAT16", None)
        (result,) = dummy.run(np.array([1.5], ml_dtypes.bfloat16))
        assert result.dtype == np.uint16 and result.tolist() == [0x3FC0]
