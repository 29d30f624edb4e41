"""Pages and the manifest as `docs/_scripts/write_tables.py` writes them."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def written(path: str) -> str:
    """Return a file with its tables as they are in the code."""
    script = ROOT / "docs" / "_scripts" / "write_tables.py"
    spec = spec_from_file_location("write_tables", script)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PAGES[ROOT / path]((ROOT / path).read_text("utf-8"))
