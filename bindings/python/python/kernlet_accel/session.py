"""Sessions, and each operation as a method.

Defaults, and the arrays that callers do not give, are made here; everything else is the native module's.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _native
from ._native import OPERATIONS, Report, Resource

if TYPE_CHECKING:
    from ._native import _Buffer as Buffer
    from .model import Framework, Model

Floats: TypeAlias = npt.NDArray[np.float32]
ResourceLike: TypeAlias = Resource | str | int
"""A resource by itself, or the name or id that it is registered under."""


class Kind(enum.IntFlag):
    """What a plugin is, with vAccel's numbers; a hint may name several."""

    CPU = 0x1
    GPU = 0x2
    FPGA = 0x4
    SOFTWARE = 0x8
    TENSORFLOW = 0x10
    TORCH = 0x20
    JETSON = 0x40
    GENERIC = 0x80
    DEBUG = 0x100
    REMOTE = 0x4000


@dataclass(frozen=True, slots=True)
class Classification:
    """One class of a picture."""

    index: int
    probability: float
    label: str


class Registered(NamedTuple):
    """A resource as a session knows it."""

    id: int
    name: str
    size: int


class Plugin(NamedTuple):
    """A plugin that there is, or that there could be: then ``absent`` says why it is not there and what to do."""

    name: str
    operations: tuple[str, ...]
    kinds: Kind
    absent: str | None


class Region(NamedTuple):
    """What one kind of work took, in seconds."""

    entries: int
    total: float
    min: float
    max: float


class Session:
    """The accelerators as one client sees them: its resources, its limits, and the operations.

    Whatever is not given is as ``KERNLET_ACCEL_CONFIG`` (a TOML file) and vAccel's variables (``VACCEL_PLUGINS`` and so on)
    say. A session may be used from several threads at once.

    :param plugins: names of plugins, instead of every one that is found and does nothing dangerous
    :param hint: the plugin to prefer, by its name or by :class:`Kind`
    :param strict: fail, rather than use another plugin, when that one does not have an operation
    :param agent: where the agent is that plugin ``remote`` sends operations to, such as ``unix:///run/agent.sock``
    :param config: a configuration file, instead of what the environment says
    :param profiling: record what operations take, for :meth:`profile`
    :param resources: most resources
    :param resource_bytes: most bytes of resources
    :param concurrency: most operations at one time; more raise :class:`~kernlet_accel.BusyError`
    :param operation_time: longest time of an operation in seconds, whatever its ``timeout``

    Every operation takes a ``timeout`` in seconds and raises :class:`~kernlet_accel.DeadlineError` when it is over before
    the operation has begun, or between two of its steps. A step that runs is not interrupted, by Ctrl-C neither:
    ``KeyboardInterrupt`` is raised when it ends.

    >>> from kernlet_accel import Session
    >>> with Session(plugins=["noop", "gemm"]) as session:
    ...     session.noop()
    ...     session.last_report.plugin
    'noop'
    """

    def __init__(
        self,
        plugins: Sequence[str] | None = None,
        hint: str | Kind | None = None,
        agent: str | None = None,
        *,
        strict: bool | None = None,
        config: str | os.PathLike[str] | None = None,
        profiling: bool | None = None,
        resources: int | None = None,
        resource_bytes: int | None = None,
        concurrency: int | None = None,
        operation_time: float | None = None,
    ) -> None:
        if isinstance(plugins, str):
            raise TypeError("plugins is a sequence of names, not one name")
        self._native = _native.Session(
            config,
            plugins,
            agent,
            strict,
            profiling,
            resources,
            resource_bytes,
            concurrency,
            operation_time,
            hint,
        )
        self._last = threading.local()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the session's resources. Operations under way go on; others raise ``ValueError`` from now on."""
        self._native.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._native.closed

    @property
    def last_report(self) -> Report | None:
        """How this thread's last operation of the session went that did not fail."""
        return getattr(self._last, "report", None)

    def prefer(self, hint: str | Kind | None, *, strict: bool = False) -> None:
        """Says which plugins it would like best from now on."""
        self._native.prefer(hint, strict)

    def plugins(self) -> list[Plugin]:
        """The plugins that there are, with their operations, then those that are not there, and why.

        >>> from kernlet_accel import Session
        >>> with Session(plugins=["gemm"]) as session:
        ...     [plugin.name for plugin in session.plugins() if plugin.absent is None]
        ['gemm']
        """
        return [
            Plugin(name, tuple(operations), Kind(kinds), absent)
            for name, operations, kinds, absent in self._native.plugins()
        ]

    # Resources

    def register(self, name: str, resource: Resource) -> int:
        """Adds a resource under a name of its own; returns its id, which is never given again.

        >>> from kernlet_accel import Resource, Session
        >>> with Session() as session:
        ...     session.register("labels", Resource.from_bytes(b"tench"))
        ...     session.find("labels"), session.find("model")
        ...     session.resources()
        1
        (1, None)
        [Registered(id=1, name='labels', size=5)]
        """
        return self._native.register(name, resource)

    def find(self, name: str) -> int | None:
        """The id of the resource of this name."""
        return self._native.find(name)

    def resources(self) -> list[Registered]:
        """Every resource that is registered, in the order of their ids."""
        return [Registered(*one) for one in self._native.resources()]

    def unregister(self, resource: str | int) -> Resource:
        """Takes a resource back, by its name or id, and returns it. Operations that use it already go on with it."""
        return self._native.unregister(resource)

    def preload(self) -> None:
        """Loads every ONNX model that is registered, so that the first operation does not wait for it."""
        self._native.preload()

    # Pictures

    def noop(self, *, timeout: float | None = None) -> None:
        """Nothing: measures the way to a plugin and back."""
        self._last.report = self._native.noop(timeout)

    def classify(
        self,
        picture: Buffer,
        model: ResourceLike | None = None,
        labels: ResourceLike | None = None,
        *,
        count: int = 5,
        timeout: float | None = None,
    ) -> list[Classification]:
        """The best ``count`` classes of a picture, a JPEG or PNG file; the best first.

        Without a model, the session's first ONNX model does it. A ``bytes`` object is used in place; other buffers may
        change meanwhile, so they are copied.
        """
        self._last.report, found = self._native.classify(picture, model, labels, count, timeout)
        return [Classification(*one) for one in found]

    def detect(self, picture: Buffer, model: ResourceLike | None = None, *, timeout: float | None = None) -> str:
        """Finds objects in a picture."""
        return self._picture("image-detect", picture, model, timeout)

    def segment(self, picture: Buffer, model: ResourceLike | None = None, *, timeout: float | None = None) -> str:
        """Divides a picture into what it shows."""
        return self._picture("image-segment", picture, model, timeout)

    def pose(self, picture: Buffer, model: ResourceLike | None = None, *, timeout: float | None = None) -> str:
        """Finds poses in a picture."""
        return self._picture("image-pose", picture, model, timeout)

    def depth(self, picture: Buffer, model: ResourceLike | None = None, *, timeout: float | None = None) -> str:
        """Estimates the depth of a picture."""
        return self._picture("image-depth", picture, model, timeout)

    def _picture(self, operation: str, picture: Buffer, model: ResourceLike | None, timeout: float | None) -> str:
        self._last.report, text = self._native.picture(operation, picture, model, timeout)
        return text

    def resize(
        self,
        picture: npt.NDArray[np.uint8],
        size: tuple[int, int] | None = None,
        *,
        out: npt.NDArray[np.uint8] | None = None,
        timeout: float | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Resizes a picture of shape ``(rows, columns)`` or ``(rows, columns, channels)`` to ``size``, rows and columns."""
        if out is None:
            if size is None:
                raise TypeError("resize takes a size or an array for the result")
            rows, columns = size
            out = np.empty((rows, columns, *np.shape(picture)[2:]), np.uint8)
        elif size is not None and tuple(size) != np.shape(out)[:2]:
            raise ValueError(f"out has the shape {np.shape(out)}, which is not of size {tuple(size)}")
        self._last.report = self._native.resize(picture, out, timeout)
        return out

    # Matrices and arrays

    def sgemm(
        self,
        a: Floats,
        b: Floats,
        c: Floats | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        timeout: float | None = None,
    ) -> Floats:
        """``c = alpha * a @ b + beta * c`` on float32 matrices; returns ``c``, a new one if none is given.

        Rows may lie apart, as in a slice of columns; elements of a row may not. Where ``beta`` is zero, ``c`` is not read.

        >>> import numpy as np
        >>> from kernlet_accel import Session
        >>> c = np.ones((2, 2), np.float32)
        >>> with Session() as session:
        ...     result = session.sgemm(np.eye(2, dtype=np.float32), c.copy(), c, alpha=2.0, beta=0.5)
        >>> result is c, c.tolist()
        (True, [[2.5, 2.5], [2.5, 2.5]])
        """
        return self._sgemm(False, a, b, c, alpha, beta, timeout)

    def torch_sgemm(
        self,
        a: Floats,
        b: Floats,
        c: Floats | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        timeout: float | None = None,
    ) -> Floats:
        """The same, by Torch."""
        return self._sgemm(True, a, b, c, alpha, beta, timeout)

    def _sgemm(
        self, by_torch: bool, a: Floats, b: Floats, c: Floats | None, alpha: float, beta: float, timeout: float | None
    ) -> Floats:
        if c is None:
            if beta != 0.0:
                raise ValueError("beta is the factor of c, which is not given")
            c = np.empty((*np.shape(a)[:1], *np.shape(b)[1:2]), np.float32)
        self._last.report = self._native.sgemm(by_torch, a, b, c, alpha, beta, timeout)
        return c

    def array_copy(
        self,
        a: npt.NDArray[np.int32],
        out: npt.NDArray[np.int32] | None = None,
        *,
        timeout: float | None = None,
    ) -> npt.NDArray[np.int32]:
        """Copies an array of int32."""
        out = np.empty(np.shape(a), np.int32) if out is None else out
        self._last.report = self._native.array_copy(a, out, timeout)
        return out

    def mmult(self, a: Floats, b: Floats, out: Floats | None = None, *, timeout: float | None = None) -> Floats:
        """Multiplies square matrices of float32."""
        out = np.empty(np.shape(a), np.float32) if out is None else out
        self._last.report = self._native.mmult(a, b, out, timeout)
        return out

    def parallel(
        self,
        a: Floats,
        b: Floats,
        sums: Floats | None = None,
        products: Floats | None = None,
        *,
        timeout: float | None = None,
    ) -> tuple[Floats, Floats]:
        """Adds and multiplies arrays of float32 element by element; returns sums and products."""
        sums = np.empty(np.shape(a), np.float32) if sums is None else sums
        products = np.empty(np.shape(a), np.float32) if products is None else products
        self._last.report = self._native.parallel(a, b, sums, products, timeout)
        return sums, products

    def vector_add(self, a: Floats, b: Floats, out: Floats | None = None, *, timeout: float | None = None) -> Floats:
        """Adds arrays of float32 element by element."""
        out = np.empty(np.shape(a), np.float32) if out is None else out
        self._last.report = self._native.vector_add(a, b, out, timeout)
        return out

    def minmax(
        self,
        a: npt.NDArray[np.float64],
        low: int,
        high: int,
        out: npt.NDArray[np.float64] | None = None,
        *,
        timeout: float | None = None,
    ) -> tuple[float, float, npt.NDArray[np.float64]]:
        """Smallest and largest of some float64, and the numbers held between ``low`` and ``high``."""
        out = np.empty(np.shape(a), np.float64) if out is None else out
        self._last.report, smallest, largest = self._native.minmax(a, low, high, out, timeout)
        return smallest, largest, out

    # Calls

    def exec(
        self,
        library: str,
        function: str,
        read: Iterable[object] = (),
        write: Iterable[Buffer] = (),
        *,
        timeout: float | None = None,
    ) -> list[int]:
        """Calls a function of a library that the configuration allows; returns how many bytes it wrote of each argument.

        ``read`` and ``write`` are arrays, in place, of their own element types; NumPy scalars are single values. To be
        read, there may also be ``str``, ``bool``, ``int`` (64 bits), ``float`` (64 bits) and ``bytes``.
        """
        self._last.report, written = self._native.exec(library, function, list(read), list(write), timeout)
        return written

    def exec_with_resource(
        self,
        library: ResourceLike,
        function: str,
        read: Iterable[object] = (),
        write: Iterable[Buffer] = (),
        *,
        timeout: float | None = None,
    ) -> list[int]:
        """The same for a library that is a resource."""
        self._last.report, written = self._native.exec_with_resource(
            library, function, list(read), list(write), timeout
        )
        return written

    def opencv(
        self, read: Iterable[object] = (), write: Iterable[Buffer] = (), *, timeout: float | None = None
    ) -> list[int]:
        """Calls a function of OpenCV, as the plugin defines them."""
        self._last.report, written = self._native.opencv(list(read), list(write), timeout)
        return written

    def generic(
        self,
        operation: str | int,
        read: Iterable[object] = (),
        write: Iterable[Buffer] = (),
        *,
        timeout: float | None = None,
    ) -> list[int]:
        """Carries out an operation with arguments in vAccel's layout, by its name or number in ``OPERATIONS``."""
        number = OPERATIONS.get(operation, operation) if isinstance(operation, str) else operation
        if isinstance(number, str):
            raise ValueError(f"there is no operation {operation!r}; see kernlet_accel.OPERATIONS")
        if not 0 <= number <= 0xFF:
            raise ValueError(f"operation {operation!r} has no layout of vAccel's; call its own method")
        self._last.report, written = self._native.generic(number, list(read), list(write), timeout)
        return written

    # Models

    def load(self, model: ResourceLike, framework: Framework = "onnx", *, timeout: float | None = None) -> Model:
        """Loads a model, so that running it is fast: ``Model(session, model, framework)``."""
        from .model import Model

        return Model(self, model, framework, timeout=timeout)

    # Profile

    @property
    def profiling(self) -> bool:
        """Whether it records what operations take."""
        return self._native.profiling

    @profiling.setter
    def profiling(self, enabled: bool) -> None:
        self._native.profiling = enabled

    def profile(self) -> dict[str, Region]:
        """What was recorded: each operation on each plugin, and the caller's own regions."""
        return {region[0]: Region(*region[1:]) for region in self._native.profile()}

    def clear_profile(self) -> None:
        """Forgets what was recorded."""
        self._native.clear_profile()

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Records the time of a ``with`` block as a region of the profile.

        >>> from kernlet_accel import Session
        >>> with Session(plugins=["noop"], profiling=True) as session:
        ...     with session.region("both"):
        ...         session.noop()
        ...         session.noop()
        ...     {name: region.entries for name, region in session.profile().items()}
        {'both': 1, 'noop (noop)': 2}
        """
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._native.record(name, time.perf_counter() - begun)
