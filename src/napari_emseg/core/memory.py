"""How much main memory is free, for this process."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def free_ram() -> int:
    """Return bytes that may be used: of the machine, or of the job or container."""
    free = int(psutil.virtual_memory().available)
    return min([free, *_free_by_limit()])


def _free_by_limit() -> list[int]:
    """Return what limits (control groups, version 2) leave to this process."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    group = CGROUPS / own.strip("/")
    found = (_left(folder) for folder in (group, *group.parents))
    return [left for left in found if left is not None]


def _left(folder: Path) -> int | None:
    """Return a group's limit less what it uses and can't drop; None without limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cache = dict(zip(stat[::2], map(int, stat[1::2]), strict=True))
    return max(0, int(limit) - used + cache.get("inactive_file", 0))
