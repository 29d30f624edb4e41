"""A thread that saves what is handed to it, soon and together."""

import logging
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread
from time import monotonic

from napari_emseg.core.lock import Hold
from napari_emseg.core.paths import path_inside
from napari_emseg.core.records import Record
from napari_emseg.project.folder import WRITTEN
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

Step = Callable[[ProjectStore], None]
"""A change of a folder. It may be taken again after it failed half-way."""

Listener = Callable[[Record], None]


class Autosave:
    """Takes steps to change a folder, and makes them in a thread of its own.

    When a save fails, whatever the reason, nothing is lost: steps and changed chunks
    stay in memory, and it is tried again. What remains when the program ends in good
    order is saved then.

    Parameters
    ----------
    on_record
        Called in the thread with `Saved` and `SaveFailed`.
    """

    def __init__(self, disk: ProjectStore, on_record: Listener | None = None) -> None:
        self._state = _State(disk, on_record)
        self._thread = Thread(
            target=self._state.work, name="emseg-autosave", daemon=True
        )
        self._thread.start()
        # not a method of self, which would keep self alive
        self._at_end = weakref.finalize(self, _end, self._state, self._thread)

    def add(self, step: Step) -> None:
        """Hand over a step; returns at once.

        Raises
        ------
        ValueError
            If this is closed.
        """
        with self._state.turn:
            if self._state.closing:
                msg = "the project is closed; open it again"
                raise ValueError(msg)
            if self._state.since is None:
                self._state.since = monotonic()
            self._state.steps.append(step)
            self._state.turn.notify_all()

    @property
    def waiting(self) -> int:
        """How many steps are not on the disk."""
        with self._state.turn:
            return self._state.waiting

    @property
    def error(self) -> OSError | None:
        """Why the latest save failed, or there are no more; None if all is well."""
        with self._state.turn:
            if self._state.ended and self._state.waiting:
                return self._state.end()
            return self._state.error

    def flush(self, timeout: float) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        OSError
            If a save fails.
        TimeoutError
            After `timeout` seconds.
        """
        self._state.flush(timeout)

    def close(self, timeout: float) -> None:
        """Save what is left, and end; the same errors as `flush`."""
        try:
            self._state.flush(timeout)
        finally:
            self._at_end()


class _State:
    """What the thread and the others share."""

    def __init__(self, disk: ProjectStore, on_record: Listener | None) -> None:
        self.disk = disk
        self.on_record = on_record
        # Guards all that follows. Steps go from `steps` (handed over) to `made`
        # (in the store's memory) to nothing (on the disk); `waiting` counts
        # both, so none is ever in between.
        self.turn = Condition()
        self.steps: deque[Step] = deque()
        self.made = 0
        """Steps that are made in memory, but not on the disk."""
        self.saving = False
        self.closing = False
        self.hurry = False
        self.since: float | None = None
        """When the first step was added that no save has begun with."""
        self.ended = False
        self.error: OSError | None = None
        self.failures = 0
        self.in_a_row = 0

    @property
    def waiting(self) -> int:
        """Steps that are not on the disk."""
        return len(self.steps) + self.made

    def flush(self, timeout: float) -> None:
        """Wait until nothing is left to save."""
        with self.turn:
            before = self.failures
            self.hurry = True
            self.turn.notify_all()
            done = self.turn.wait_for(
                lambda: not self.waiting or self.failures > before or self.ended,
                timeout,
            )
            if self.waiting and self.ended:
                raise self.end()
            if not done:
                msg = f"{self.waiting} changes were not saved in {timeout:g} s"
                raise TimeoutError(msg)
            if self.waiting and self.error is not None:
                raise self.error

    def end(self) -> OSError:
        """Return what says that nothing is saved any more."""
        return OSError(f"saving has ended; {self.waiting} changes are not saved")

    def work(self) -> None:
        """Save until told to end."""
        try:
            while self._wait():
                self._try()
        finally:  # also by a fault, so that nobody waits for ever
            with self.turn:
                self.ended = True
                self.turn.notify_all()

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
        with self.turn:
            self.turn.wait_for(lambda: self.waiting or self.closing)
            if not self.waiting:
                return False
            # whoever closes has seen the failure, and there is no later
            if self.closing and self.error is not None:
                return False
            pause = self._pause() if self.error is not None else self._delay()
            self.turn.wait_for(lambda: self.hurry or self.closing, pause)
            self.hurry = False
            self.since = None
            return True

    def _delay(self) -> float:
        """Return how long the first step may still wait; it may have waited already."""
        since = monotonic() if self.since is None else self.since
        return max(0.0, since + DELAY - monotonic())

    def _save(self) -> None:
        """Make the steps, and write what they have changed."""
        # first what an earlier save has committed, else its files would be staged over
        self.disk.finish()
        until = monotonic() + MAKING
        while monotonic() < until and self.disk.nbytes <= AT_ONCE:
            with self.turn:
                if not self.steps:
                    break
                # taken out only when it was made: if it fails
                # it is the first to be made again
                step = self.steps[0]
            step(self.disk)
            with self.turn:
                self.steps.popleft()
                self.made += 1
        self.disk.save()

    def _done(self, seconds: float) -> None:
        with self.turn:
            changes, self.made = self.made, 0
            self.error = None
            self.in_a_row = 0
            if not self.steps:
                self.since = None
            self.turn.notify_all()
        self._tell(Saved(changes, seconds))

    def _failed(self, error: OSError) -> None:
        with self.turn:
            self.error = error
            self.failures += 1
            self.in_a_row += 1
            waiting = self.waiting
            self.turn.notify_all()
        self._tell(SaveFailed(_words(error), waiting, self._pause()))

    def _pause(self) -> float:
        # exponential back-off; the exponent is bounded so that the power stays small
        return float(min(RETRY * 2 ** min(self.in_a_row - 1, 9), RETRY_MOST))

    def _tell(self, record: Record) -> None:
        if self.on_record is None:
            return
        try:
            self.on_record(record)
        except Exception:  # a listener's fault mustn't end saving
            LOG.exception("a listener to saves failed on %s", record)


def _end(state: _State, thread: Thread) -> None:
    with state.turn:
        state.closing = True
        state.turn.notify_all()
    thread.join()


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


SECONDS = 60.0
"""That closing waits for the last save."""


class ProjectWriter:
    """Writes to a project's folder if it may, else says why not.

    Parameters
    ----------
    refusal
        Why it shouldn't even try; empty if it should.

    Raises
    ------
    OSError
        If the folder is no project, or damaged.
    """

    def __init__(
        self, path: Path, author: str, refusal: str, on_record: Listener | None
    ) -> None:
        self.refusal = refusal
        """Why nothing can be changed here; empty if it can."""
        self._path = path
        self._hold: Hold | None = None
        self._autosave: Autosave | None = None
        if not refusal and path.is_dir():
            self._take_hold(author)
        try:
            self.disk = ProjectStore(path, writing=self._hold is not None)
        except OSError:
            self._release()
            raise
        if self._hold is not None:
            self._autosave = Autosave(self.disk, on_record)

    @property
    def read_only(self) -> bool:
        """True if nothing can be changed here."""
        return self._autosave is None

    @property
    def waiting(self) -> int:
        """How many changes are not on the disk yet."""
        return 0 if self._autosave is None else self._autosave.waiting

    @property
    def error(self) -> OSError | None:
        """Why the latest save failed; None if it didn't."""
        return None if self._autosave is None else self._autosave.error

    def check(self) -> Autosave:
        """Return the thread that writes.

        Raises
        ------
        ValueError
            If nothing can be changed here.
        """
        if self._autosave is None:
            msg = f"{self._path.name} is read-only: {self.refusal}"
            raise ValueError(msg)
        return self._autosave

    def add(self, step: Step) -> None:
        """Hand over a step; the same error as `check`."""
        self.check().add(step)

    def flush(self, timeout: float) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        if self._autosave is not None:
            self._autosave.flush(timeout)

    def close(self) -> None:
        """Save what is left, and let others write; the same errors as `flush`."""
        try:
            if self._autosave is not None:
                self._autosave.close(SECONDS)
        finally:
            self._release()

    def _take_hold(self, author: str) -> None:
        try:
            for name in WRITTEN:
                path_inside(self._path, name)
            self._hold = Hold(self._path, author)
        except OSError as e:
            self.refusal = e.strerror or str(e)

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None
