"""What the package is made of; `kernlet_accel` has the interface that programs use."""

import os
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy.typing as npt
from typing_extensions import Buffer

# NumPy declares the protocol from Python 3.12 on.
_Buffer: TypeAlias = Buffer | npt.NDArray[Any]

__all__ = ["OPERATIONS", "Report", "Resource", "Session", "Tensor", "__version__"]

OPERATIONS: dict[str, int]
__version__: str

@final
class Report:
    """How an operation went."""

    @property
    def plugin(self) -> str:
        """The plugin that carried it out."""
    @property
    def elapsed(self) -> float:
        """Seconds inside the plugin."""
    @property
    def bytes_copied(self) -> int:
        """Bytes of arguments that were copied instead of being used in place."""
    @property
    def fallback_from(self) -> str | None:
        """The first plugin that declined it, if one did."""

@final
class Resource:
    """What operations refer to: a model, labels, a library; a file, several, or those of a folder."""

    @staticmethod
    def from_file(path: str | os.PathLike[str], *, kind: str = "data") -> Resource: ...
    @staticmethod
    def from_files(paths: Sequence[str | os.PathLike[str]], *, kind: str = "data") -> Resource: ...
    @staticmethod
    def from_dir(path: str | os.PathLike[str], *, kind: str = "model") -> Resource: ...
    @staticmethod
    def from_url(url: str, *, kind: str = "data", config: str | os.PathLike[str] | None = None) -> Resource: ...
    @staticmethod
    def from_bytes(data: _Buffer, *, name: str = "", kind: str = "data") -> Resource: ...
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def files(self) -> list[tuple[str, int]]: ...
    @property
    def is_onnx_model(self) -> bool: ...

@final
class Tensor:
    """A tensor that an operation wrote; `numpy.asarray` makes an array of it in place."""

    @property
    def dtype(self) -> str: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Session:
    def __new__(
        cls,
        config: str | os.PathLike[str] | None,
        plugins: Sequence[str] | None,
        agent: str | None,
        strict: bool | None,
        profiling: bool | None,
        resources: int | None,
        resource_bytes: int | None,
        concurrency: int | None,
        operation_time: float | None,
        hint: str | int | None,
    ) -> Session: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def prefer(self, hint: str | int | None, strict: bool) -> None: ...
    def plugins(self) -> list[tuple[str, list[str], int, str | None]]: ...
    def register(self, name: str, resource: Resource) -> int: ...
    def find(self, name: str) -> int | None: ...
    def resource(self, given: Resource | str | int) -> Resource: ...
    def resources(self) -> list[tuple[int, str, int]]: ...
    def unregister(self, given: str | int) -> Resource: ...
    def preload(self) -> None: ...
    def noop(self, timeout: float | None) -> Report: ...
    def classify(
        self,
        picture: _Buffer,
        model: Resource | str | int | None,
        labels: Resource | str | int | None,
        count: int,
        timeout: float | None,
    ) -> tuple[Report, list[tuple[int, float, str]]]: ...
    def picture(
        self, operation: str, picture: _Buffer, model: Resource | str | int | None, timeout: float | None
    ) -> tuple[Report, str]: ...
    def resize(self, source: _Buffer, to: _Buffer, timeout: float | None) -> Report: ...
    def sgemm(
        self,
        by_torch: bool,
        a: _Buffer,
        b: _Buffer,
        c: _Buffer,
        alpha: float,
        beta: float,
        timeout: float | None,
    ) -> Report: ...
    def array_copy(self, source: _Buffer, to: _Buffer, timeout: float | None) -> Report: ...
    def mmult(self, a: _Buffer, b: _Buffer, c: _Buffer, timeout: float | None) -> Report: ...
    def parallel(
        self, a: _Buffer, b: _Buffer, sum: _Buffer, product: _Buffer, timeout: float | None
    ) -> Report: ...
    def vector_add(self, a: _Buffer, b: _Buffer, sum: _Buffer, timeout: float | None) -> Report: ...
    def minmax(
        self, source: _Buffer, low: int, high: int, to: _Buffer, timeout: float | None
    ) -> tuple[Report, float, float]: ...
    def exec(
        self, library: str, function: str, read: list[Any], write: list[Any], timeout: float | None
    ) -> tuple[Report, list[int]]: ...
    def exec_with_resource(
        self,
        library: Resource | str | int,
        function: str,
        read: list[Any],
        write: list[Any],
        timeout: float | None,
    ) -> tuple[Report, list[int]]: ...
    def opencv(
        self, read: list[Any], write: list[Any], timeout: float | None
    ) -> tuple[Report, list[int]]: ...
    def generic(
        self, operation: int, read: list[Any], write: list[Any], timeout: float | None
    ) -> tuple[Report, list[int]]: ...
    @property
    def profiling(self) -> bool: ...
    @profiling.setter
    def profiling(self, enabled: bool) -> None: ...
    def record(self, name: str, seconds: float) -> None: ...
    def profile(self) -> list[tuple[str, int, float, float, float]]: ...
    def clear_profile(self) -> None: ...
    def load_model(
        self, framework: str, model: Resource, unload: bool, timeout: float | None
    ) -> Report | None: ...
    def run_model(
        self,
        framework: str,
        model: Resource,
        sets: Sequence[tuple[Sequence[Any], Sequence[Any] | None]],
        outputs: int,
        as_batch: bool,
        names: str,
        options: _Buffer,
        timeout: float | None,
    ) -> tuple[Report, list[list[Tensor | tuple[int, ...]]]]: ...
