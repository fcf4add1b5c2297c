"""Models, on NumPy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._native import Report, Resource, Tensor
from .session import ResourceLike, Session

if TYPE_CHECKING:
    from ._native import _Buffer as Buffer

# NumPy has no bfloat16; where a package is there that has added it, outputs are of it, and else of uint16.
try:
    _BFLOAT16: np.dtype[Any] | None = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
except ImportError:
    _BFLOAT16 = None

Framework: TypeAlias = Literal["onnx", "tensorflow", "tflite", "torch"]
Array: TypeAlias = npt.NDArray[Any]


class Model:
    """A model that is loaded.

    Inputs are arrays in the model's order, row by row in memory; they are read in place. Outputs are written to the arrays
    of ``out``, or become arrays of whatever type and shape the model gives, without another copy.

    >>> import numpy as np
    >>> from kernlet_accel import Model, Resource, Session
    >>> with Session() as session, Model(session, Resource.from_file("mobilenet_v2_fp16w.onnx")) as model:
    ...     (logits,) = model.run(np.zeros((1, 3, 224, 224), np.float32))
    >>> logits.shape, logits.dtype
    ((1, 1000), dtype('float32'))
    """

    def __init__(
        self,
        session: Session,
        model: ResourceLike,
        framework: Framework = "onnx",
        *,
        timeout: float | None = None,
    ) -> None:
        self._session = session
        self._resource = session._native.resource(model)
        self._framework = framework
        self._keep(session._native.load_model(framework, self._resource, False, timeout))

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._session.closed:
            self.unload()

    @property
    def resource(self) -> Resource:
        """The resource that it was loaded from."""
        return self._resource

    @property
    def framework(self) -> Framework:
        """The framework that it is for."""
        return self._framework

    def run(
        self,
        inputs: Array | Sequence[Array],
        out: Array | Sequence[Array] | None = None,
        *,
        outputs: int = 1,
        names: Sequence[str] | str = "",
        options: Buffer = b"",
        timeout: float | None = None,
    ) -> list[Array]:
        """Runs the model on its inputs and returns its outputs.

        :param inputs: an array for each input; of a model with one, that array
        :param out: an array for each output, large enough for it; the result is a view of what was written
        :param outputs: how many outputs the model has, where ``out`` is not given
        :param names: names of the tensors as ``name:index``, those of the inputs first; TensorFlow needs them
        :param options: options of the framework, in its own format
        """
        names = names if isinstance(names, str) else "\n".join(names)
        sets = [_set(inputs, out)]
        (result,) = self._run(sets, outputs, False, names, options, timeout)
        return result

    def run_batch(
        self,
        batch: Iterable[Array | Sequence[Array]],
        out: Iterable[Array | Sequence[Array]] | None = None,
        *,
        outputs: int = 1,
        timeout: float | None = None,
    ) -> list[list[Array]]:
        """Runs an ONNX model on several sets of inputs at once; returns the outputs of each."""
        batch = list(batch)
        rooms: list[Array | Sequence[Array] | None] = [None] * len(batch) if out is None else list(out)
        if len(rooms) != len(batch):
            raise ValueError(f"there are {len(batch)} sets of inputs, and arrays for the outputs of {len(rooms)}")
        sets = [_set(inputs, room) for inputs, room in zip(batch, rooms, strict=True)]
        return self._run(sets, outputs, True, "", b"", timeout)

    def _run(
        self,
        sets: list[tuple[list[Array], list[Array] | None]],
        outputs: int,
        as_batch: bool,
        names: str,
        options: Buffer,
        timeout: float | None,
    ) -> list[list[Array]]:
        report, results = self._session._native.run_model(
            self._framework, self._resource, sets, outputs, as_batch, names, options, timeout
        )
        self._keep(report)
        return [_arrays(result, room) for result, (_, room) in zip(results, sets, strict=True)]

    def unload(self) -> None:
        """Makes plugins forget what they made of it. Happens by itself when nobody has the resource any more."""
        self._keep(self._session._native.load_model(self._framework, self._resource, True, None))

    def _keep(self, report: Report | None) -> None:
        if report is not None:
            self._session._last.report = report


def _listed(arrays: Array | Sequence[Array]) -> list[Array]:
    return list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]  # type: ignore[list-item]


def _set(
    inputs: Array | Sequence[Array], out: Array | Sequence[Array] | None
) -> tuple[list[Array], list[Array] | None]:
    return _listed(inputs), None if out is None else _listed(out)


def _array(tensor: Tensor) -> Array:
    array = np.asarray(tensor)
    return array if _BFLOAT16 is None or tensor.dtype != "bf16" else array.view(_BFLOAT16)


def _arrays(results: list[Tensor | tuple[int, ...]], room: list[Array] | None) -> list[Array]:
    """Arrays of what was written: the tensor itself, or the part of the caller's array that was."""
    arrays = []
    for index, result in enumerate(results):
        if isinstance(result, Tensor):
            arrays.append(_array(result))
        elif room is not None:
            whole = np.asarray(room[index])
            arrays.append(whole.reshape(-1)[: int(np.prod(result))].reshape(result))
    return arrays
