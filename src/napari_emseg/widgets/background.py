"""Loading what a run needs, in the run's own thread and without stopping the window.

Python's import of a compiled library holds the interpreter's lock while the system
links it, for most of a second in the case of PyTorch: the window would stand still.
Linking it beforehand, by a call that lets go of the lock, leaves little to do.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock, get_native_id
from typing import TypeVar

import numpy as np
from napari.layers import Labels
from napari.qt.threading import create_worker
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.core.records import Progress, Record
from napari_emseg.widgets.jobs import QuestionWorker

SELDOM = 1000
"""Collections of younger objects between two of all, while work is on; else 10."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Put garbage collection off while hundreds of thousands of objects are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # calls all of them old, as they are; else it would soon look through everything
        gc.freeze()
        gc.unfreeze()
        if was_on:
            gc.enable()


class RareFullGC:
    """Collects all objects seldom as long as any work is on; young ones as ever.

    What lives long and is garbage at last waits a little longer; a batch that runs for
    hours is collected all the same.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._at_work = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            if self._at_work == 0:
                self._before = gc.get_threshold()
                gc.set_threshold(*self._before[:2], SELDOM)
            self._at_work += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._at_work -= 1
            if self._at_work == 0:
                gc.set_threshold(*self._before)


full_collections_are_seldom = RareFullGC()
"""Of the whole program, as the collector is."""


R = TypeVar("R")

NICENESS = 10
"""Of a run: a tenth of a core while the window wants it, all of it otherwise."""

RTLD_NOW = 2  # of Linux and macOS alike

_LIBRARIES = ("libtorch_cpu", "libtorch_cuda", "libtorch_python")


PATIENCE = 10.0
"""Seconds that a run waits for its layers; they may never come, if the window went."""


def warmed_up(
    work: Generator[Record, None, R],
    layers_are_there: Event,
    *,
    torch: bool,
    check: Callable[[], None] | None = None,
    is_result: Callable[[Record], bool] = bool,
) -> Generator[Record, None, R]:
    """Load what `work` and its layers need; the GUI adds these with the first result.

    What ends before has no layers. Adding one takes a good part of a quarter of a
    second of the window's time, and more while another thread is at work, which waits.
    """
    with closing(work), full_collections_are_seldom:
        _stand_back()
        if check is not None:
            check()
        yield Progress("preparing the layers", 0, 0)
        with no_collection():
            for kind in (np.uint8, np.uint32):
                Labels(np.zeros((2, 2), kind))  # has napari load what colours them
        if torch:
            yield from _loading_torch()
        return (yield from _shown_from_first(work, layers_are_there, is_result))


def _shown_from_first(
    work: Generator[Record, None, R],
    layers_are_there: Event,
    is_result: Callable[[Record], bool],
) -> Generator[Record, None, R]:
    """Do work, and after its first result wait once for the layers that show it."""
    waits = True
    while True:
        try:
            record = next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
        yield record
        if waits and is_result(record):
            layers_are_there.wait(PATIENCE)
            waits = False


def run_niced(work: Generator[Record, None, R]) -> Generator[Record, None, R]:
    """Do work that lets the window go first."""
    with closing(work), full_collections_are_seldom:
        _stand_back()
        return (yield from work)


def with_torch(
    work: Generator[Record, None, R],
) -> Generator[Record, None, R]:
    """Do work that needs PyTorch, which is loaded with the window alive."""
    with closing(work), full_collections_are_seldom:
        _stand_back()
        yield from _loading_torch()
        return (yield from work)


def with_training(
    work: Generator[Record, None, R],
) -> Generator[Record, None, R]:
    """Do work that learns, and load what that needs, and the panel that shows it."""
    with closing(work), full_collections_are_seldom:
        _stand_back()
        yield from _loading_torch()
        yield Progress("preparing to train", 0, 0)
        load_training()
        with no_collection():
            import_module("pyqtgraph")
        return (yield from work)


def _loading_torch() -> Generator[Record, None, None]:
    if "torch" not in sys.modules:
        yield Progress("loading PyTorch (first time only)", 0, 0)
    load_torch()


def _stand_back() -> None:
    """Let the window go first where there are too few cores for both.

    Threads that this one starts, such as PyTorch's, stand back as well. Only Linux
    has priorities for threads that anybody may lower.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)


def load_torch() -> None:
    """Import PyTorch from a thread with the window alive."""
    if "torch" in sys.modules:
        return
    found = find_spec("torch")
    if found is not None and found.origin is not None and sys.platform != "win32":
        _link(Path(found.origin).with_name("lib"))
    with no_collection():
        import_module("torch")


def load_training() -> None:
    """Have PyTorch import what it needs for training: with the first optimiser.

    That is its compiler, with SymPy and others: as many objects as PyTorch itself.
    """
    with no_collection():
        optim, tensor = import_module("torch.optim"), import_module("torch").zeros(1)
        optim.AdamW([tensor.requires_grad_()])
        import_module("napari_emseg.training.finetune")


def _link(folder: Path) -> None:
    """Link PyTorch's libraries; what fails here fails again, and louder, on import."""
    try:
        link = ctypes.CDLL(None).dlopen
    except (AttributeError, OSError):
        return
    link.restype, link.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    for name in _LIBRARIES:
        library = folder / f"{name}{suffix}"
        if library.exists():
            link(str(library).encode(), ctypes.RTLD_LOCAL | RTLD_NOW)


Question = Callable[[], object]


def niced(question: Question) -> Question:
    """Return a question that lets the window go first."""

    def ask() -> object:
        _stand_back()
        return question()

    return ask


class LatestOnlyWorker(QObject):
    """Answers one question at a time; a newer one takes the place of those before.

    Signals: `found` with the answer to the latest question; `failed` with its error.
    Nothing is told of questions that were replaced or dropped.
    """

    found = Signal(object)
    failed = Signal(Exception)

    def __init__(self) -> None:
        super().__init__()
        self._asked: Question | None = None
        self._at_work: Question | None = None

    @property
    def waiting(self) -> bool:
        """True from `ask` until `found`, `failed` or `drop`."""
        return self._asked is not None

    def ask(self, question: Question) -> None:
        """Have a question answered as soon as the one at work is done."""
        self._asked = question
        if self._at_work is None:
            self._start(question)

    def drop(self) -> None:
        """Want no answer any more."""
        self._asked = None

    def _start(self, question: Question) -> None:
        self._at_work = question
        worker = create_worker(
            question,
            _start_thread=False,
            _worker_class=QuestionWorker,
            _ignore_errors=True,
        )
        worker.returned.connect(self._on_found)
        worker.errored.connect(self._on_failed)
        worker.start()

    def _on_found(self, answer: object) -> None:
        if self._done():
            self.found.emit(answer)

    def _on_failed(self, error: Exception) -> None:
        if self._done():
            self.failed.emit(error)

    def _done(self) -> bool:
        """Go on with what was asked meanwhile; tell if the answer is still wanted."""
        wanted = self._asked is not None and self._asked is self._at_work
        self._at_work = None
        if wanted:
            self._asked = None
        elif self._asked is not None:
            self._start(self._asked)
        return wanted
