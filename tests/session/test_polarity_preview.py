from __future__ import annotations

import numpy as np
import pytest

from napari_emseg.core.records import Note, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference.predictor import Inverting
from napari_emseg.sample import vnc
from napari_emseg.session import RunScope, Session
from napari_emseg.session.live import THUMBNAIL, iter_polarity_preview
from napari_emseg.session.run_factory import RunFactory


def inverted(stack: Stack) -> Stack:
    return Stack(255 - np.asarray(stack.data[:]), name="inverted")


def test_pictures_are_small_and_opposite() -> None:
    look = drain(iter_polarity_preview(vnc(), 2))
    assert look.as_it_is.shape == (THUMBNAIL, THUMBNAIL)
    np.testing.assert_allclose(look.as_it_is + look.inverted, 1)
    assert look.z == 2


@pytest.mark.parametrize("make", [vnc, lambda: inverted(vnc())])
def test_a_look_says_what_a_run_will_do(make) -> None:
    stack = make()
    look = drain(iter_polarity_preview(stack, 0))
    for invert in ("auto", "yes", "no"):
        will, _ = Inverting().decide(stack, PredictSettings(invert=invert))
        assert look.inverts(invert) is will, invert


def test_of_a_bright_stack_a_run_tells_that_it_inverts(tmp_path) -> None:
    from thin import thin_weights

    session = Session(predict_settings=PredictSettings(runtime="torch", device="cpu"))
    session.select("a", inverted(vnc()))
    session.choose_weights(thin_weights(tmp_path))
    said: list[str] = []
    area = slice(0, 64), slice(0, 64)
    drain(
        RunFactory(session).predict(RunScope((0,), area)).work,
        lambda r: said.append(r.message) if isinstance(r, Note) else None,
    )
    assert any("membranes look bright; set Invert to no if not" in s for s in said)


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 1, 1), (1, 40, 3000)])
def test_small_and_odd_sections_are_taken_as_they_are(shape) -> None:
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    look = drain(iter_polarity_preview(Stack(values), 0))
    assert look.polarity.inverted is None
    assert not look.inverts("auto")
