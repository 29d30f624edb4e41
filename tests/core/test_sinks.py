from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from napari_emseg.core.sinks import ArraySink, ClosingSink, PassingSink


def test_sections_come_in_any_order_and_missing_ones_are_0() -> None:
    with ArraySink((3, 2, 2), np.dtype(np.uint8)) as sink:
        sink.write(2, np.full((2, 2), 7, np.uint8))
        sink.write(0, np.full((2, 2), 5, np.uint8))
    assert sink.data[:, 0, 0].tolist() == [5, 0, 7]


def test_what_is_finished_survives_an_error() -> None:
    sink = ArraySink((2, 2, 2), np.dtype(np.uint8))

    def fail() -> None:
        with sink:
            sink.write(0, np.ones((2, 2), np.uint8))
            msg = "stop"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert sink.data[0].all()


def test_what_does_not_fit_is_refused() -> None:
    sink = ArraySink((2, 4, 5), np.dtype(np.float32))
    with pytest.raises(IndexError, match=r"no section 2 in .* 0\.\.1"):
        sink.write(2, np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"section 1 is \(5, 4\) px"):
        sink.write(1, np.zeros((5, 4)))


def test_what_is_passed_on_ends_as_the_sink_behind_it() -> None:
    class Ended(ArraySink):
        ends: tuple[object, ...] = ()

        def close(self) -> None:
            self.ends = (*self.ends, "closed")

        def abort(self, *, keep: bool = False) -> None:
            self.ends = (*self.ends, f"aborted, keep={keep}")

    behind = Ended((2, 3, 4), np.dtype(np.uint8))
    sink = PassingSink(behind)
    with suppress(OSError), sink:
        sink.write(1, np.full((3, 4), 7, np.uint8))
        sink.close()
        raise OSError
    assert (sink.shape, sink.dtype) == ((2, 3, 4), np.uint8)
    assert behind.data[1].min() == 7
    assert behind.ends == ("closed", "aborted, keep=True")


def test_what_can_not_be_closed_is_aborted() -> None:
    class Full(ArraySink):
        aborted = False

        def close(self) -> None:
            raise OSError(28, "no space")

        def abort(self, *, keep: bool = False) -> None:
            self.aborted = keep

    sink = Full((1, 2, 2), np.dtype(np.uint8))
    with pytest.raises(OSError, match="no space"), sink:
        pass
    assert sink.aborted


def test_a_sink_that_can_not_stop_early_is_not_made() -> None:
    class Half(ClosingSink):
        def close(self) -> None: ...

    with pytest.raises(TypeError, match=r"abstract .*abort"):
        Half()
