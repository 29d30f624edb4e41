"""How much of the machine this process may use: main memory and cores."""

import os
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")


def free_ram() -> int:
    """Return bytes that may be used: of the machine, the job, container or process."""
    free = int(psutil.virtual_memory().available)
    return min([free, *_free_by_limit(), *_free_by_ulimit()])


def _free_by_ulimit() -> list[int]:
    """Return what a limit of this process (`ulimit -v`, Slurm's VSizeFactor) leaves."""
    if resource is None:
        return []
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return []
    return [max(0, limit - int(psutil.Process().memory_info().vms))]


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


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
