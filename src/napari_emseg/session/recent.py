"""Projects that were used last, remembered from one sitting to the next."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from platformdirs import user_state_path

from napari_emseg.core.atomic import write_whole

RECENT_KEPT = 8
"""So many are remembered."""


def memory() -> Path:
    """Return the file that remembers them."""
    return user_state_path("napari-emseg", appauthor=False) / "recent.json"


def recent_projects() -> tuple[Path, ...]:
    """Return folders of projects, the latest first; some may be gone by now."""
    try:
        listed = json.loads(memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not ours
        return ()
    if not isinstance(listed, list):
        return ()
    return tuple(Path(path) for path in listed if isinstance(path, str))


def remember_project(path: Path) -> None:
    """Put a project first; where that can't be written, nothing is remembered."""
    path = path.absolute()
    others = [known for known in recent_projects() if known != path]
    text = json.dumps([str(known) for known in (path, *others)][:RECENT_KEPT], indent=1)
    file = memory()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
