"""Where tasks run: threads here, processes here, or any Dask cluster.

Nothing listens beyond 127.0.0.1, and there is no dashboard, unless an address is given.
"""

import logging
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

from napari_emseg._installed import __version__
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.job import BatchStoppedError
from napari_emseg.batch.where import ClusterSettings, here
from napari_emseg.batch.worker import TaskBody, run_task
from napari_emseg.core.sinks import Closing

RECENT = 1.0
"""Seconds for which the number of workers is taken as known."""

PATIENCE = 15.0
"""Seconds to wait for a scheduler to answer."""

SAME = ("dask", "distributed")
"""Packages of which client, scheduler and workers must have one version."""


@dataclass(frozen=True, slots=True)
class Done:
    """A task has ended: with facts, or with an error."""

    key: str
    facts: Facts | None
    error: BaseException | None


class SchedulerGoneError(BatchStoppedError, ConnectionError):
    """The Dask scheduler that hands out the parts is gone."""


class Cluster(Closing):
    """Runs tasks; a context manager that stops them at its end.

    Raises
    ------
    ConnectionError
        If no scheduler answers at the address.
    RuntimeError
        If workers have other versions, or don't see the folder of results.
    """

    def __init__(self, where: ClusterSettings, folder: Path) -> None:
        self._where = where
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._own: Any = None
        self._quiet = ExitStack()
        self._client: Any = None
        self._tag = uuid4().hex[:8]
        self._asked = 0.0
        self._known: dict[str, int] = {}
        self._connect()
        try:
            self._check_versions()
            self._check_folder(folder)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        # takes half a second, which `emseg --help` needn't wait for
        from distributed import Client
        from distributed.utils import silence_logging_cmgr

        where = self._where
        if where.scheduler is not None:
            # what Dask logs of a scheduler that is gone are tracebacks; we say it
            self._quiet.enter_context(silence_logging_cmgr(logging.CRITICAL))
            try:
                self._client = Client(where.scheduler, timeout=PATIENCE)
            except (OSError, ValueError) as e:
                self._quiet.close()
                msg = (
                    f"no Dask scheduler answers at {where.scheduler} ({e}): is it "
                    "running there, and is that its address, tcp://HOST:PORT or "
                    "tls://HOST:PORT?"
                )
                raise ConnectionError(msg) from e
        else:
            self._own = here(where.workers)
            self._client = Client(self._own)

    @property
    def slots(self) -> int:
        """Tasks that run at once; at least one, as long as no worker is there."""
        return max(1, sum(self._threads().values()))

    @property
    def workers(self) -> int:
        """How many there are at this moment."""
        return len(self._threads())

    def _threads(self) -> dict[str, int]:
        """Return how many tasks each worker runs at once, as of a second ago."""
        now = monotonic()
        if now - self._asked > RECENT:
            try:
                self._known = dict(self._client.nthreads())
            except OSError as e:
                raise SchedulerGoneError(self._gone) from e
            self._asked = now
        return self._known

    def submit(self, key: str, work: TaskBody) -> None:
        """Hand over a task; `next_done` will tell of it under its key."""
        # a key of this batch alone: a scheduler gives what it knows of an equal key
        # without doing it again, files or not
        future: Any = self._client.submit(
            run_task, work, __version__, key=f"{self._tag}-{key}", pure=False
        )
        self._watch(key, future)

    def _watch(self, key: str, future: Any) -> None:
        self._futures[key] = future
        # called in a thread of Dask; the queue brings it to the batch's own
        future.add_done_callback(lambda _: self._ended.put((key, future)))

    def next_done(self, seconds: float) -> Done | None:
        """Wait for the next task that ends; None if none does for so long.

        Raises
        ------
        ConnectionError
            If the scheduler is gone.
        """
        try:
            ended: tuple[str, Any] = self._ended.get(timeout=seconds)
        except Empty:
            self._check_alive()
            return None
        key = ended[0]
        future: Any = ended[1]
        # a callback of an earlier future of this key, which `_wait_anew` has replaced
        if self._futures.pop(key, None) is not future:
            return None
        if future.status == "finished":
            try:
                return Done(key, future.result(timeout=PATIENCE), None)
            except TimeoutError:
                self._wait_anew(key, future)
                return None
            except (OSError, CancelledError) as e:
                raise SchedulerGoneError(self._gone) from e
        if future.status in ("pending", "lost"):
            self._wait_anew(key, future)
            return None
        if future.status != "error":
            raise SchedulerGoneError(self._gone)
        return Done(key, None, future.exception(timeout=PATIENCE))

    def _wait_anew(self, key: str, future: Any) -> None:
        """Wait for a task whose worker died with the result: another does it again."""
        self._check_alive()
        self._watch(key, future)

    def close(self) -> None:
        """Stop what runs, and the workers if they are our own."""
        alive = self._client is not None and self._client.status == "running"
        if alive:
            self._client.cancel(list(self._futures.values()), force=True)
        self._futures.clear()
        if self._client is not None:
            self._client.close(timeout=PATIENCE if alive else 1)
        if self._own is not None:
            self._own.close(timeout=PATIENCE)
        self._quiet.close()

    @property
    def _gone(self) -> str:
        where = self._where.scheduler or "this machine"
        return f"the Dask scheduler at {where} is gone; what is finished is kept"

    def _check_alive(self) -> None:
        if self._client.status != "running":
            raise SchedulerGoneError(self._gone)

    def _check_versions(self) -> None:
        if self._own is not None:
            return
        found = self._client.get_versions()
        mine = _told(found["client"])
        others = {"the scheduler": found["scheduler"], **found["workers"]}
        for name, facts in others.items():
            if facts is not None and (theirs := _told(facts)) != mine:
                msg = (
                    f"{name} has {_words(theirs)}, this program {_words(mine)}; "
                    "install the same versions everywhere"
                )
                raise RuntimeError(msg)

    def _check_folder(self, folder: Path) -> None:
        if self._own is not None:
            return
        blind = [
            w
            for w, there in self._client.run(_is_dir, str(folder)).items()
            if not there
        ]
        if blind:
            msg = (
                f"worker {blind[0]} doesn't see {folder}; workers need the folder of "
                "results, and the inputs, under the same name"
            )
            raise RuntimeError(msg)


def _is_dir(folder: str) -> bool:
    return Path(folder).is_dir()


def _told(facts: dict[str, Any]) -> dict[str, str]:
    python = str(facts["host"]["python"]).split(".")
    packages = {name: str(facts["packages"].get(name)) for name in SAME}
    return {"python": ".".join(python[:2]), **packages}


def _words(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
