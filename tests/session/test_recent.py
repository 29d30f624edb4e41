from __future__ import annotations

from pathlib import Path

import pytest

from napari_emseg.session import projects
from napari_emseg.session.projects import RECENT_KEPT, recent_projects, remember_project


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "deep" / "recent.json"
    monkeypatch.setattr(projects, "memory", lambda: file)
    return file


def test_the_latest_comes_first_and_none_twice(memory) -> None:
    a, b = Path("/work/a.emseg"), Path("/work/b.emseg")
    assert recent_projects() == ()
    for path in (a, b, a):
        remember_project(path)
    assert recent_projects() == (a, b)


def test_only_some_are_kept(memory) -> None:
    for n in range(RECENT_KEPT + 3):
        remember_project(Path(f"/work/{n}.emseg"))
    assert len(recent_projects()) == RECENT_KEPT
    assert recent_projects()[0] == Path(f"/work/{RECENT_KEPT + 2}.emseg")


def test_a_relative_path_is_found_from_anywhere(memory, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    remember_project(Path("mine.emseg"))
    assert recent_projects() == (tmp_path / "mine.emseg",)


@pytest.mark.parametrize("content", ["no JSON", '{"a": 1}', "[1, 2]", "\xff"])
def test_a_damaged_memory_is_none(memory, content) -> None:
    memory.parent.mkdir()
    memory.write_bytes(content.encode("latin-1"))
    assert recent_projects() == ()
    remember_project(Path("/work/a.emseg"))
    assert recent_projects() == (Path("/work/a.emseg"),)


def test_nothing_happens_where_nothing_can_be_written(memory) -> None:
    memory.parent.write_text("a file where the folder should be")
    remember_project(Path("/work/a.emseg"))
    assert recent_projects() == ()
