import numpy as np
import pytest

from napari_emseg.core.records import Note, Provenance, SectionDone, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import Stack
from napari_emseg.segmentation import cells_provenance, segment_section, segment_stack


@pytest.fixture(scope="module")
def membrane(drawn_stack) -> np.ndarray:
    _, cells = drawn_stack
    return np.where(cells == 0, np.float32(0.95), np.float32(0.05))


def test_ids_are_unique_over_the_stack(membrane) -> None:
    result = drain(segment_stack(membrane))
    assert result.cells is not None
    assert result.cells.dtype == np.uint32
    assert result.sections == (0, 1, 2, 3)
    ids = [np.unique(section[section > 0]) for section in result.cells]
    assert [len(i) for i in ids] == [result.counts[z] for z in range(4)]
    together = np.concatenate(ids)
    assert sorted(together) == list(range(1, sum(result.counts.values()) + 1))


def test_each_section_is_as_if_alone(membrane) -> None:
    cells = drain(segment_stack(membrane)).cells
    assert cells is not None
    for z in range(4):
        alone = segment_section(membrane[z])
        offset = int(cells[z][cells[z] > 0].min()) - 1
        np.testing.assert_array_equal(np.where(alone > 0, alone + offset, 0), cells[z])


def test_sections_in_any_order_are_stored_ascending(membrane) -> None:
    records = []
    work = segment_stack(membrane, sections=[3, 1])
    result = drain(work, records.append)
    assert result.sections == (1, 3)
    assert records == [SectionDone(3, 1, 2), SectionDone(1, 2, 2)]
    assert result.cells is not None
    assert result.cells.shape[0] == 2
    for index, z in enumerate((1, 3)):
        np.testing.assert_array_equal(
            result.cells[index] > 0, segment_section(membrane[z]) > 0
        )


def test_a_sink_gets_what_is_finished_when_stopped(membrane) -> None:
    sink = ArraySink(membrane.shape, np.dtype(np.uint32))
    work = segment_stack(membrane, sink=sink)
    next(work)
    work.close()
    assert sink.data[0].any()
    assert not sink.data[1:].any()
    result = drain(segment_stack(membrane, sink=sink))
    assert result.cells is None
    assert sink.data.all(axis=(1, 2)).sum() == 0
    assert sink.data.any(axis=(1, 2)).all()


def test_a_stack_of_bytes_and_a_picture(membrane) -> None:
    as_bytes = np.round(membrane * 255).astype(np.uint8)
    exactly = as_bytes.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(
        drain(segment_stack(Stack(as_bytes))).cells, drain(segment_stack(exactly)).cells
    )
    result = drain(segment_stack(membrane[0]))
    assert result.cells is not None
    np.testing.assert_array_equal(result.cells[0], segment_section(membrane[0]))


def test_padding_of_the_source_has_no_cells(membrane) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, membrane.shape, dtype=np.uint8)
    grey[:, :, :30] = 0
    result = drain(segment_stack(membrane, source=Stack(grey)))
    assert result.cells is not None
    assert not result.cells[:, :, :30].any()
    assert result.cells[:, :, 30:].any()


def test_zeros_that_the_network_was_given_are_padding(membrane) -> None:
    p = membrane.copy()
    p[0, :, :30] = 0
    p[2] = 0
    result = drain(segment_stack(p))
    assert result.cells is not None
    assert not result.cells[0, :, :30].any()
    assert result.counts[2] == 0


class Damaged:
    """Three sections; the middle one can't be read."""

    shape = (3, 20, 20)
    dtype = np.dtype(np.float32)

    def __getitem__(self, z: int) -> np.ndarray:
        if z == 1:
            msg = "page 1 is truncated"
            raise OSError(msg)
        p = np.full((20, 20), 0.1, np.float32)
        p[10] = 0.9
        return p


def test_a_damaged_section_is_told_of_and_left_out() -> None:
    records = []
    result = drain(segment_stack(Stack(Damaged())), records.append)
    assert result.damaged == {1: "page 1 is truncated"}
    assert result.counts == {0: 2, 2: 2}
    assert result.cells is not None
    assert not result.cells[1].any()
    assert [type(r) for r in records] == [SectionDone, Note, SectionDone, SectionDone]
    assert "section 1" in records[1].message


def test_what_does_not_fit_is_refused_at_once(membrane) -> None:
    with pytest.raises(ValueError, match="no section 4; sections are 0"):
        segment_stack(membrane, sections=[4])
    with pytest.raises(ValueError, match="source is"):
        segment_stack(membrane, source=Stack(np.zeros((4, 5, 5), np.uint8)))
    with pytest.raises(ValueError, match="more cells than ids"):
        drain(segment_stack(membrane, first_id=2**32 - 3))


def test_provenance_goes_on_from_the_probabilities() -> None:
    before = Provenance(
        kind="membrane", source="a.tif", weights="w", scale=255, settings={"tile": 256}
    )
    after = cells_provenance(CellSettings(threshold=0.4), before)
    assert (after.kind, after.source, after.weights) == ("cells", "a.tif", "w")
    assert after.scale == 1
    assert after.threshold == 0.4
    assert after.settings["predict"] == {"tile": 256}
    assert after.settings["cells"]["threshold"] == 0.4
    assert cells_provenance(CellSettings()).kind == "cells"
