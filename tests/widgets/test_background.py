from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Generator

import pytest

from napari_emseg.core.records import Note, Progress, Record, drain
from napari_emseg.widgets import background
from napari_emseg.widgets.background import SELDOM, no_collection


def work(closed: list[bool]) -> Generator[Record, None, int]:
    try:
        yield Note("working")
        return 7
    finally:
        closed.append(True)


@pytest.fixture(autouse=True)
def _stay_in_front(monkeypatch) -> None:
    """These run in the test's own thread, which is not to be slowed down for good."""
    monkeypatch.setattr(background, "_stand_back", lambda: None)


def test_the_work_waits_for_its_layers(qapp) -> None:
    there, closed, waited = threading.Event(), [], []
    there.wait = lambda timeout: waited.append(timeout)
    warmed = background.warmed_up(
        *(work(closed), there), torch=False, is_result=lambda r: isinstance(r, Note)
    )
    assert isinstance(next(warmed), Progress)
    assert next(warmed) == Note("working")
    assert waited == []  # nothing is shown before
    assert drain(warmed) == 7
    assert waited == [background.PATIENCE]
    assert closed == [True]


def test_the_work_goes_on_if_its_layers_never_come(qapp, monkeypatch) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.01)
    warmed = background.warmed_up(
        *(work([]), threading.Event()), torch=False, is_result=lambda _: True
    )
    assert drain(warmed) == 7


def test_stopping_early_closes_the_work(qapp) -> None:
    started = work(closed := [])
    next(started)
    warmed = background.warmed_up(started, threading.Event(), torch=False)
    next(warmed)
    warmed.close()
    assert closed == [True]


def test_garbage_is_collected_again_afterwards(freeze_modules) -> None:
    gc.unfreeze()
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    freeze_modules(thawed=True)


def test_torch_works_after_its_libraries_were_linked() -> None:
    code = (
        "from napari_emseg.widgets.background import load_torch\n"
        "load_torch()\n"
        "import torch\n"
        "assert torch.nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 8, 8)).shape == (1, 1, 6, 6)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


LEARNS = """
import gc, sys
from napari_emseg.widgets import background
background._stand_back = lambda: None
loaded = []

def round_():
    loaded.extend(sys.modules)
    from napari_emseg.models.zoo import build
    from napari_emseg.training import finetune, run
    import torch
    network = build("unet", {"base": 2, "levels": 2})
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 1, 32, 32)).sum().backward()
    optimiser.step()
    from pyqtgraph import PlotWidget
    yield

full = []
gc.callbacks.append(lambda phase, about: full.append(about["generation"] == 2))
list(background.with_training(round_()))
late = set(sys.modules) - set(loaded)
print(len(late), sum(full), *sorted(late)[:9])
"""


def test_a_round_loads_what_it_needs_before_and_never_collects_all_objects() -> None:
    """Nothing else runs while all are looked through; the window would stand still."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEARNS],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
    )
    late, full = map(int, done.stdout.split()[:2])
    assert late < 30, done.stdout
    assert full == 0


def test_while_work_is_on_all_is_collected_seldom() -> None:
    usual = gc.get_threshold()
    first, second = (background.run_niced(work([])) for _ in range(2))
    next(first)
    assert gc.get_threshold() == (*usual[:2], SELDOM)
    next(second)
    first.close()
    assert gc.get_threshold() == (*usual[:2], SELDOM), "another one is on"
    assert drain(second) == 7
    assert gc.get_threshold() == usual


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this")
def test_a_run_stands_back_and_the_window_does_not(monkeypatch) -> None:
    monkeypatch.undo()
    import os

    seen: list[int] = []

    def other() -> None:
        background._stand_back()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [max(here, background.NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here
