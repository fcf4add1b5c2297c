"""Accelerator operations on NumPy arrays in place: say what is to be done, and the best plugin there is does it.

>>> import numpy as np
>>> from kernlet_accel import Session
>>> with Session() as session:
...     a = np.array([[1, 2], [3, 4]], np.float32)
...     session.sgemm(a, np.eye(2, dtype=np.float32))
array([[1., 2.],
       [3., 4.]], dtype=float32)

Arrays are not copied: an operation reads and writes them where they are, and other threads of Python's run on meanwhile.
"""

from __future__ import annotations

from ._native import OPERATIONS, Report, Resource, Tensor, __version__
from .errors import (
    AccelError,
    BusyError,
    DeadlineError,
    DeniedError,
    InvalidError,
    LimitError,
    NotFoundError,
    UnsupportedError,
)
from .model import Model
from .session import Classification, Kind, Plugin, Region, Registered, Session

__all__ = [
    "OPERATIONS",
    "AccelError",
    "BusyError",
    "Classification",
    "DeadlineError",
    "DeniedError",
    "InvalidError",
    "Kind",
    "LimitError",
    "Model",
    "NotFoundError",
    "Plugin",
    "Region",
    "Registered",
    "Report",
    "Resource",
    "Session",
    "Tensor",
    "UnsupportedError",
    "__version__",
]
