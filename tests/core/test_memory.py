from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from napari_emseg.core import memory


def test_is_what_the_machine_has() -> None:
    free = psutil.virtual_memory().available
    assert 0 < memory.free_ram() < 1.1 * free


@pytest.mark.parametrize(("limit", "left"), [("3000", [1500]), ("max", [])])
def test_is_less_in_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, left: list[int]
) -> None:
    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("2000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 500\nfile 900\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(Path, "read_text", reading({"/proc/self/cgroup": "0::/job\n"}))
    assert memory._free_by_limit() == left
    if left:
        assert memory.free_ram() == 1500


@pytest.mark.skipif(memory.resource is None, reason="no such limits here")
def test_is_less_under_a_limit_of_address_space() -> None:
    """As set by `ulimit -v`, in a process of its own since it can't be taken back."""
    script = """
import resource, psutil
from napari_emseg.core.memory import free_ram
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
assert 0 < free_ram() <= 2**26, free_ram()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def reading(instead: dict[str, str]) -> Callable[[Path], str]:
    read = Path.read_text
    return lambda path: instead.get(str(path)) or read(path)
