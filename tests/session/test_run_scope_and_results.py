from __future__ import annotations

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.session import Results, RunScope, from_here
from napari_emseg.session import results as results_module
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.results import allocate


@given(st.sets(st.integers(0, 50), min_size=1), st.integers(0, 50))
def test_all_sections_once_those_from_here_first(sections, here) -> None:
    order = from_here(sections, here)
    assert set(order) == sections
    assert len(order) == len(sections)
    later = [z for z in order if z >= here]
    assert order[: len(later)] == tuple(sorted(later))


def test_a_region_without_some_sections() -> None:
    assert RunScope((3, 1, 2)).without({1}).sections == (3, 2)


def test_areas_that_tile_a_section_make_it_whole() -> None:
    editor = AnnotationEditor(Results((2, 6, 8)))
    results = editor.results
    ones = np.ones((6, 4), np.float32)
    editor.put_prediction(1, (slice(0, 6), slice(0, 4)), ones, 0.5)
    assert results.unknown(1).sum() == 24
    editor.put_prediction(1, (slice(0, 6), slice(4, 8)), ones * 0.25, 0.5)
    assert results.unknown(1) is None
    assert results.membranes[1].sum() == 24
    assert results.predicted == (1,)


def test_nothing_is_known_of_a_section_that_was_not_predicted() -> None:
    assert Results((2, 3, 4)).unknown(0).all()


def test_clearing_forgets_a_section() -> None:
    editor = AnnotationEditor(Results((1, 3, 4)))
    results, area = editor.results, (slice(0, 3), slice(0, 4))
    editor.put_prediction(0, area, np.ones((3, 4), np.float32), 0.5)
    editor.clear([0])
    assert not results.probabilities.any()
    assert not results.predicted


def test_arrays_take_memory_only_where_they_are_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    results = Results((400, 1024, 1024))  # 1.7 GB of float32
    results.probabilities[3] = 1
    assert process.memory_info().rss - before < 50e6


def test_what_does_not_fit_into_memory_lives_on_disk(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(results_module, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(
        results_module, "user_cache_path", lambda *args, **options: tmp_path
    )
    array = allocate((2, 3, 4), np.uint32)
    assert isinstance(array, np.memmap)
    assert not array.any()
    array[1] = 7
    assert array[1].sum() == 84


def test_settled_sections_are_remembered_as_one_area() -> None:
    editor = AnnotationEditor(Results((1, 4, 4)))
    results = editor.results
    for y in range(4):
        area = (slice(y, y + 1), slice(0, 4))
        editor.put_prediction(0, area, np.ones((1, 4), np.float32), 0.5)
    results.settle(0)
    assert results._areas[0] == [(slice(0, 4), slice(0, 4))]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7)])
def test_cells_are_32_bit(shape) -> None:
    assert Results(shape).cells.dtype == np.uint32
