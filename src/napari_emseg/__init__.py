"""Membranes and cells from electron-microscopy stacks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_emseg._installed import __version__, naming_versions

_HOME = {
    "Stack": "core.stack",
    "open_stack": "io",
    "read_layers": "_napari",
    "load_weights": "models.weights",
    "metrics": "metrics",
    "evaluate": "api",
    "finetune": "api",
    "predict": "api",
    "segment": "api",
}

__all__ = [
    "Stack",
    "__version__",
    "evaluate",
    "finetune",
    "load_weights",
    "metrics",
    "open_stack",
    "predict",
    "read_layers",
    "segment",
]

if TYPE_CHECKING:
    from napari_emseg import metrics
    from napari_emseg._napari import read_layers
    from napari_emseg.api import evaluate, finetune, predict, segment
    from napari_emseg.core.stack import Stack
    from napari_emseg.io import open_stack
    from napari_emseg.models.weights import load_weights


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    with naming_versions():
        module = import_module(f"{__name__}.{_HOME[name]}")
    return module if name == "metrics" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
