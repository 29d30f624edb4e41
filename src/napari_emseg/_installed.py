"""What is installed: our version, and the folder of napari-emseg-data, if it is there.

What isn't for commercial use comes as that distribution of its own, which holds files
only; everything else works without it.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__version__ = version("napari-emseg")


def data_folder() -> Path | None:
    """Return where the files of napari-emseg-data lie; None if it isn't installed."""
    spec = find_spec("napari_emseg_data")
    if spec is None or spec.origin is None:  # no origin: pip left an empty folder
        return None
    return Path(spec.origin).parent


def only_in_data(what: str) -> str:
    """Say how to get what comes with napari-emseg-data alone."""
    return (
        f"{what} is in napari-emseg-data (not for commercial use): "
        "pip install napari-emseg-data"
    )
