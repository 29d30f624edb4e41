"""Ctrl-C and SIGTERM (of Slurm, `timeout`, a shutdown) stop a command in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

STOPPED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes, as shells have them."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class StopRequest:
    """Whether somebody asked for an end; calling it tells."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return True after Ctrl-C or SIGTERM."""
        return self.signal is not None

    def error(self, words: str = "") -> KeyboardInterrupt:
        """Return what to raise; `words` follow the name of the signal."""
        return _error(signal.SIGINT if self.signal is None else self.signal, words)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second one interrupts."""
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request():
            raise _error(number)
        request.signal = number

    with _handling(ask, signal.SIGINT, signal.SIGTERM):
        yield request


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise Terminated at SIGTERM, as Python raises KeyboardInterrupt at Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _error(number)

    with _handling(interrupt, signal.SIGTERM):
        yield


def exit_code(error: BaseException | None) -> int:
    """Return 143 if an interrupt began with SIGTERM, else 130."""
    while error is not None:
        if isinstance(error, Terminated):
            return TERMINATED
        error = error.__cause__ or error.__context__
    return STOPPED


def _error(number: int, words: str = "") -> KeyboardInterrupt:
    if number == signal.SIGTERM:
        return Terminated(f"by SIGTERM{words}")
    return KeyboardInterrupt(f"by Ctrl-C{words}")


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    if current_thread() is not main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
