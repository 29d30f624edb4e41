"""How long a newcomer waits in napari, by phases: for a first picture, for first cells.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/first_use.py

In a shown window Run is clicked in 2 Membranes, then in 3 Cells, for one section of the
bundled stack; then both once more. `cold` is a process whose folders of caches are
empty, as after an installation; `warm` is the next one, which finds what that one kept.
A phase is what the panel says, with the seconds from its beginning to the next one's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RESULT = Path(__file__).parent / "results" / "first_use.json"


class Phases:
    """Notes when a job says something else of what it does, from the click on."""

    def __init__(self, job: Any) -> None:
        from napari_emseg.core.records import Progress, SectionDone, TileDone

        self._kinds, self._progress = (TileDone, SectionDone), Progress
        self._began: list[tuple[str, float]] = []
        self._clicked = 0.0
        self.shown: float | None = None
        job.recorded.connect(self._on_records)

    def begin(self) -> None:
        """Begin anew: the button is clicked now."""
        self._clicked, self.shown = time.perf_counter(), None
        self._began = [("starting", 0.0)]

    def _on_records(self, records: Sequence[object]) -> None:
        now = time.perf_counter() - self._clicked
        for record in records:
            if isinstance(record, self._progress):
                self._name(record.step, now)
            elif isinstance(record, self._kinds):
                if self.shown is None:
                    self.shown = now
                self._name("sections", now)

    def _name(self, step: str, now: float) -> None:
        if step != self._began[-1][0]:
            self._began.append((step, now))

    def end(self) -> dict[str, Any]:
        """Return seconds: in each phase, until there was a picture, and in all."""
        total = time.perf_counter() - self._clicked
        ends = [at for _, at in self._began[1:]] + [total]
        each = [
            (name, round(end - at, 2))
            for (name, at), end in zip(self._began, ends, strict=True)
        ]
        picture = None if self.shown is None else round(self.shown, 2)
        return {"phases": each, "picture": picture, "end": round(total, 2)}


def measure(weights: str) -> dict[str, Any]:
    """Measure in this process, which has begun just now."""
    begun = time.perf_counter()
    import napari
    from qtpy.QtWidgets import QApplication

    def until(done: Callable[[], bool]) -> None:
        while not done():
            QApplication.processEvents()
            time.sleep(0.002)

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, dock = viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    viewer.open_sample("napari-emseg", "vnc")
    found: dict[str, Any] = {"window": round(time.perf_counter() - begun, 2)}
    box = dock.panel("Membranes").weights
    until(lambda: box.findText(weights) >= 0)
    box.setCurrentIndex(box.findText(weights))
    box.activated.emit(box.currentIndex())
    controller = dock.panel("Membranes").run._controller
    phases = Phases(controller.job)
    for time_ in ("first", "second"):
        for name in ("Membranes", "Cells"):
            panel = dock.panel(name)
            panel.scope.choice.setCurrentText("this section")
            until(panel.run.button.isEnabled)
            phases.begin()
            panel.run.button.click()
            until(lambda: not controller.job.busy)
            QApplication.processEvents()
            found[f"{time_} {name.lower()}"] = phases.end()
    viewer.close()
    return found


def in_new_process(weights: str, caches: str) -> dict[str, Any]:
    """Return what `measure` finds in a fresh interpreter with its caches there."""
    words = ("numba", "xdg")
    names = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    folders = {n: str(Path(caches) / w) for n, w in zip(names, words, strict=True)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--here", "--weights", weights],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | folders,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell(case: str, found: dict[str, Any]) -> None:
    """Print what was found, a line for each run."""
    print(f"{case}: window after {found.pop('window')} s")
    for name, each in found.items():
        said = " · ".join(f"{step} {seconds} s" for step, seconds in each["phases"])
        print(f"  {name}: picture {each['picture']} s, end {each['end']} s ({said})")


def main() -> None:
    """Measure cold and warm, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="isbi2012-unet")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.weights)))
        return
    from machine import describe

    record: dict[str, Any] = {"machine": describe(threads=os.cpu_count() or 1)}
    record["weights"] = options.weights
    with TemporaryDirectory() as caches:
        for case in ("cold", "warm"):
            record[case] = in_new_process(options.weights, caches)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    for case in ("cold", "warm"):
        tell(case, record[case])
    first, again = (record[c]["first cells"]["end"] for c in ("cold", "warm"))
    print(f"first cells: {first} s cold, {again} s warm, {first - again:.2f} s more")


if __name__ == "__main__":
    main()
