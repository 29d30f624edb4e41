"""Where a batch runs, and the cluster of this machine."""

import ctypes
import logging
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import psutil
from pydantic import Field

from napari_emseg.core.settings import Settings

ARENAS = 2
"""Enough for threads not to wait: they ask for a few large arrays."""

VARIABLE = "MALLOC_ARENA_MAX"
"""That glibc reads when a process begins."""

_M_ARENA_MAX = -8
"""Number of the option in glibc's malloc.h."""


def share_arenas() -> bool:
    """Let all threads of this process share a few arenas; tell if that was possible.

    Only what threads that begin later take is shared, so it is for the beginning of a
    program. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))


LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Where a batch runs.

    Parameters
    ----------
    workers
        Processes on this machine; None for threads of this one.
    scheduler
        Address of a running Dask scheduler, `tcp://…` or `tls://…`.
    """

    workers: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            msg = "either so many workers here, or a scheduler's address; got both"
            raise ValueError(msg)
        if self.workers is not None and self.workers < 1:
            msg = f"workers must be 1 or more, got {self.workers}"
            raise ValueError(msg)

    @property
    def threads(self) -> int | None:
        """CPU threads for the network of each worker; None: the worker's own choice."""
        if self.workers is None:
            return None
        return max(1, (os.cpu_count() or 1) // self.workers)


def here(workers: int | None) -> Any:
    """Return a cluster of this machine: processes, or threads of this one.

    Other users of the machine can reach processes, but with `cryptography` installed
    only those who have a key are let in, which never leaves these processes.

    Dask's profiler is off: it keeps a tree of calls for each second of the last
    thousand, which nobody asks for, and stops the workers a hundred times a second.
    Processes give the memory that one thread frees to the others (`allocator`).
    """
    import dask
    from distributed import Nanny, Scheduler, Security, SpecCluster, Worker

    alone = workers is None
    locked = not alone and find_spec("cryptography") is not None
    security = Security.temporary() if locked else Security()
    options: dict[str, Any] = {
        "protocol": "inproc://" if alone else "tls://" if locked else "tcp://",
        "security": security,
        "host": None if alone else LOCAL,
        # without an address the servers for statistics would listen to everybody
        "dashboard": False,
        "dashboard_address": f"{LOCAL}:0",
    }
    memory = psutil.virtual_memory().total // (workers or 1)
    limits = {
        "nthreads": (os.cpu_count() or 1) if alone else 1,
        "memory_limit": 0 if alone else memory,
        "silence_logs": logging.CRITICAL,
    }
    worker = {"cls": Worker if alone else Nanny, "options": options | limits}
    quiet = {
        "distributed.worker.profile.enabled": False,
        f"distributed.nanny.pre-spawn-environ.{VARIABLE}": ARENAS,
    }
    with dask.config.set(quiet):
        return SpecCluster(
            scheduler={"cls": Scheduler, "options": {**options, "port": 0}},
            workers=dict.fromkeys(range(workers or 1), worker),
            security=security,
            silence_logs=logging.CRITICAL,
        )


class PlaceSettings(Settings):
    """Threads of this window, processes of this machine, or a cluster."""

    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        title="Workers",
        description="So many processes on this machine; auto: threads of this window.",
    )
    scheduler: str = Field(
        "",
        title="Scheduler",
        description="Address of a Dask scheduler, tcp://… or tls://…, instead.",
    )

    @property
    def where(self) -> ClusterSettings:
        """As a batch takes it.

        Raises
        ------
        ValueError
            If both are given.
        """
        return ClusterSettings(self.workers, self.scheduler.strip() or None)
