"""Ctrl-C and SIGTERM: never lost, and held back in the short sections that must not be cut in two.

An exception out of a signal handler is ignored by Python when it strikes inside a destructor or a callback from C.
``install`` notices that and raises again, and the entry point asks ``pending`` before it reports success.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn

TERMINATED: Final = 143
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
AGAIN_S: Final = 0.02
"""After this time an ignored interruption is raised again."""

_arrived: list[int] = []
_placed: list[str] = []


def install() -> None:
    """Handlers of the console script; a library leaves the signals to its caller."""
    for number in SIGNALS:
        signal.signal(number, _raise)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda number, frame: _raise(_arrived[0], frame))
        sys.unraisablehook = _unraisable


def begin() -> None:
    """A command starts: no output stands yet."""
    _placed.clear()


def ignore() -> None:
    """Signals have no effect any more: the exit code is settled."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def pending() -> int | None:
    """The signal that has come, None without one."""
    return _arrived[0] if _arrived else None


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _arrived.append(number)
    if _arrived[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)  # unwinds, so half-written output is removed as on Ctrl-C


def _unraisable(unraisable: Any) -> None:
    if _arrived and isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


class Held:
    """``with Held():`` signals that come meanwhile take effect at the end of the block."""

    def __enter__(self) -> None:
        """Notes signals from here on."""
        self._noted: list[int] = []
        self._before: list[tuple[int, Any]] = []
        if threading.current_thread() is threading.main_thread():  # only there do signals interrupt Python
            for number in SIGNALS:
                self._before.append((number, signal.getsignal(number)))
                signal.signal(number, lambda number, frame: self._noted.append(number))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the handlers back and lets them have what came."""
        for number, handler in self._before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._noted:
            signal.raise_signal(self._noted[0])


def place(path: object) -> None:
    """Notes that an output of this command stands complete."""
    _placed.append(str(path))


def placed() -> tuple[str, ...]:
    """Outputs that stand complete: what a message about an interruption has to say."""
    return tuple(_placed)
