"""`emseg batch` as a program whose parts are small: `python program.py INPUT… …`."""

from __future__ import annotations

import sys

from napari_emseg.batch import context
from napari_emseg.cli import main

if __name__ == "__main__":
    context.DEEPEST = 2
    raise SystemExit(main(["batch", *sys.argv[1:]]))
