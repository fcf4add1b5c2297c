"""Why an operation did not run.

Each status of the runtime (an ``errno``) has a class of its own, which is also the built-in exception that Python's
programs expect there. What is wrong with a call before it reaches the runtime is a plain ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

import errno

__all__ = [
    "AccelError",
    "BusyError",
    "DeadlineError",
    "DeniedError",
    "InvalidError",
    "LimitError",
    "NotFoundError",
    "UnsupportedError",
]


class AccelError(OSError):
    """An operation or a resource failed.

    ``errno`` (also ``status``) is the runtime's status, ``strerror`` its message with all causes. The class itself is
    raised where a plugin, a device or the way to an agent failed; everything else has a class below it.
    """

    @property
    def status(self) -> int:
        """The runtime's status: an ``errno``."""
        return self.errno or errno.EIO


class InvalidError(AccelError, ValueError):
    """An argument has a wrong value, shape, type or length, or what it holds is not what it should be."""


class NotFoundError(AccelError, LookupError):
    """There is no such resource or file."""


class UnsupportedError(AccelError, NotImplementedError):
    """No plugin has the operation. The message names those that are there, and those that would have it."""


class DeadlineError(AccelError, TimeoutError):
    """The operation's time was over."""


class DeniedError(AccelError, PermissionError):
    """A plugin, a library or a resource is not to be used by this session."""


class LimitError(AccelError, MemoryError):
    """It takes more memory, or more resources, than the session may use."""


class BusyError(AccelError, BlockingIOError):
    """As many operations as the session may have are running already."""


_CLASSES: dict[int, type[AccelError]] = {
    errno.EINVAL: InvalidError,
    errno.ERANGE: InvalidError,
    errno.ENOENT: NotFoundError,
    errno.ENOTSUP: UnsupportedError,
    errno.ETIMEDOUT: DeadlineError,
    errno.EACCES: DeniedError,
    errno.ENOMEM: LimitError,
    errno.EAGAIN: BusyError,
    errno.EBUSY: BusyError,
}


def of_status(status: int, message: str) -> AccelError:
    """The exception of a status.

    >>> of_status(110, "too late")
    DeadlineError(110, 'too late')
    """
    return _CLASSES.get(status, AccelError)(status, message)
