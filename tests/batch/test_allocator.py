from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys
from threading import Barrier, Thread

if sys.argv[1] == "shared":
    from napari_emseg.batch.where import share_arenas

    assert share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = Barrier(6)

def take():
    libc.malloc(1000)
    together.wait()

threads = [Thread(target=take) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


def arenas(how: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS, how],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.count("Arena ")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_threads_share_what_is_freed() -> None:
    assert arenas("shared") <= 2 < arenas("apart")
