"""A thread that saves what is handed to it, soon and together."""

import logging
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

from napari_emseg.core.records import Record
from napari_emseg.project.state import Saved, SaveFailed
from napari_emseg.project.store import ProjectStore

DELAY = 0.3
"""Seconds that a save waits for more changes, so that a stroke is one save."""

MAKING = 0.3
"""Seconds after which a save doesn't wait for changes that go on coming."""

AT_ONCE = 256 * 2**20
"""Bytes of changed chunks after which a save doesn't wait for more."""

RETRY, RETRY_MOST = 1.0, 30.0
"""Seconds to the next try after a failure; doubled each time, up to the second."""

LOG = logging.getLogger(__name__)

SECONDS = 60.0
"""That closing waits for the last save."""

Step = Callable[[ProjectStore], None]
"""A change of a folder. It may be taken again after it failed half-way."""

Listener = Callable[[Record], None]


class Autosave:
    """Takes steps to change a folder, and makes them in a thread of its own.

    When a save fails, whatever the reason, nothing is lost: steps and changed chunks
    stay in memory, and it is tried again. The thread keeps this alive, so whoever has
    it must `end` it.

    Parameters
    ----------
    on_record
        Called in the thread with `Saved` and `SaveFailed`.
    """

    def __init__(self, disk: ProjectStore, on_record: Listener | None = None) -> None:
        self._disk = disk
        self._on_record = on_record
        # Guards all that follows. Steps go from `_steps` (handed over) to `_made`
        # (in the store's memory) to nothing (on the disk); `waiting` counts
        # both, so none is ever in between.
        self._turn = Condition()
        self._steps: deque[Step] = deque()
        self._made = 0
        """Steps that are made in memory, but not on the disk."""
        self._closing = False
        self._hurry = False
        self._since: float | None = None
        """When the first step was added that no save has begun with."""
        self._ended = False
        self._error: OSError | None = None
        self._failures = 0
        self._in_a_row = 0
        self._thread = Thread(target=self._work, name="emseg-autosave", daemon=True)
        self._thread.start()

    def add(self, step: Step) -> None:
        """Hand over a step; returns at once.

        Raises
        ------
        ValueError
            If this has ended.
        """
        with self._turn:
            if self._closing:
                msg = "the project is closed; open it again"
                raise ValueError(msg)
            if self._since is None:
                self._since = monotonic()
            self._steps.append(step)
            self._turn.notify_all()

    @property
    def waiting(self) -> int:
        """How many steps are not on the disk."""
        with self._turn:
            return len(self._steps) + self._made

    @property
    def error(self) -> OSError | None:
        """Why the latest save failed, or there are no more; None if all is well."""
        with self._turn:
            return self._no_more() if self._ended and self.waiting else self._error

    def flush(self, timeout: float) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        OSError
            If a save fails.
        TimeoutError
            After `timeout` seconds.
        """
        with self._turn:
            before = self._failures
            self._hurry = bool(self.waiting)  # else the next stroke would be in a hurry
            self._turn.notify_all()
            done = self._turn.wait_for(
                lambda: not self.waiting or self._failures > before or self._ended,
                timeout,
            )
            if self.waiting and self._ended:
                raise self._no_more()
            if not done:
                msg = f"{self.waiting} changes were not saved in {timeout:g} s"
                raise TimeoutError(msg)
            if self.waiting and self._error is not None:
                raise self._error

    def end(self) -> None:
        """Save what is left, take no more, and wait for the thread."""
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        self._thread.join()

    def _no_more(self) -> OSError:
        return OSError(f"saving has ended; {self.waiting} changes are not saved")

    def _work(self) -> None:
        """Save until told to end."""
        try:
            while self._wait():
                self._try()
        finally:  # also by a fault, so that nobody waits for ever
            with self._turn:
                self._ended = True
                self._turn.notify_all()

    def _try(self) -> None:
        begun = monotonic()
        try:
            self._save()
        except Exception as e:  # noqa: BLE001 - whatever it is, the thread goes on
            self._failed(e if isinstance(e, OSError) else _as_os_error(e))
        else:
            self._done(monotonic() - begun)

    def _wait(self) -> bool:
        """Wait for steps, and a little for more; False at the end."""
        with self._turn:
            self._turn.wait_for(lambda: self.waiting or self._closing)
            if not self.waiting:
                return False
            # whoever closes has seen the failure, and there is no later
            if self._closing and self._error is not None:
                return False
            pause = self._pause() if self._error is not None else self._delay()
            self._turn.wait_for(lambda: self._hurry or self._closing, pause)
            self._hurry = False
            self._since = None
            return True

    def _delay(self) -> float:
        """Return how long the first step may still wait; it may have waited already."""
        since = monotonic() if self._since is None else self._since
        return max(0.0, since + DELAY - monotonic())

    def _save(self) -> None:
        """Make the steps, and write what they have changed."""
        # first what an earlier save has committed, else its files would be staged over
        self._disk.finish()
        until = monotonic() + MAKING
        while monotonic() < until and self._disk.nbytes <= AT_ONCE:
            with self._turn:
                if not self._steps:
                    break
                # taken out only when it was made: if it fails
                # it is the first to be made again
                step = self._steps[0]
            step(self._disk)
            with self._turn:
                self._steps.popleft()
                self._made += 1
        self._disk.save()

    def _done(self, seconds: float) -> None:
        with self._turn:
            changes, self._made = self._made, 0
            self._error = None
            self._in_a_row = 0
            if not self._steps:
                self._since, self._hurry = None, False
            self._turn.notify_all()
        self._tell(Saved(changes, seconds))

    def _failed(self, error: OSError) -> None:
        with self._turn:
            self._error = error
            self._failures += 1
            self._in_a_row += 1
            waiting = self.waiting
            self._turn.notify_all()
        self._tell(SaveFailed(_words(error), waiting, self._pause()))

    def _pause(self) -> float:
        # exponential back-off; the exponent is bounded so that the power stays small
        return float(min(RETRY * 2 ** min(self._in_a_row - 1, 9), RETRY_MOST))

    def _tell(self, record: Record) -> None:
        if self._on_record is None:
            return
        try:
            self._on_record(record)
        except Exception:  # a listener's fault mustn't end saving
            LOG.exception("a listener to saves failed on %s", record)


def _as_os_error(error: Exception) -> OSError:
    """Return what isn't about the disk as what callers wait for."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        what = "out of memory"
    else:
        LOG.error("a save failed", exc_info=error)
        what = type(error).__name__
    made = OSError(f"{what}: {text}" if text else what)
    made.__cause__ = error
    return made


def _words(error: OSError) -> str:
    return error.strerror or str(error)
