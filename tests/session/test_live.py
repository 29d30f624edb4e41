"""The field of view: shallow first, then deeper, and nothing where it has no use."""

from __future__ import annotations

import numpy as np
import pytest
from nested import nested_weights
from thin import thin_weights

from napari_emseg.core.records import Progress, drain
from napari_emseg.core.settings import LiveSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import estimate, throughput
from napari_emseg.session import RunScope, Session
from napari_emseg.session.live import (
    Live,
    PictureDone,
    format_paces,
    is_quick,
    paces_of,
    passes_of,
    view_of,
)
from napari_emseg.session.run_factory import RunFactory

FAST = PredictSettings(runtime="torch", device="cpu", threads=1)
AREA = (slice(20, 70), slice(30, 100))
LIVE = LiveSettings()


@pytest.fixture
def session(drawn_stack, tmp_path) -> Session:
    session = Session(predict_settings=FAST)
    session.select("a", drawn_stack[0])
    session.choose_weights(nested_weights(tmp_path))
    return session


def pictures(session: Session, z: int = 1, live: Live | None = None):
    records = list((live or Live()).run(view_of(session, z, AREA, LIVE)))
    return [r for r in records if isinstance(r, PictureDone)], records


def measured(session: Session, area=AREA, **seconds: float) -> None:
    """Let a view take so many seconds at some depths, `d1=0.1`."""
    for depth, value in seconds.items():
        way = session.predict_settings.model_copy(update={"depth": int(depth[1:])})
        taken = estimate(
            session.source.stack, session.weights, settings=way, sections=[1], roi=area
        )
        throughput.remember(session.weights, way, 1000 * value / taken.megapixels)


def test_shallow_first_then_deeper(session, runs) -> None:
    found, records = pictures(session)
    assert [(p.depth, p.done, p.total) for p in found] == [(1, 1, 2), (2, 2, 2)]
    assert sum(isinstance(r, Progress) for r in records) >= 4
    for picture in found:
        whole = session.predict_settings.model_copy(update={"depth": picture.depth})
        session.predict_settings = whole
        drain(runs.predict(RunScope((1,))).work)
        of_run = session.source.results.probabilities[1][AREA]
        np.testing.assert_allclose(picture.values, of_run, atol=1e-5)
        session.source.editor.clear([1])


def test_nothing_is_written_into_results(session) -> None:
    pictures(session)
    results = session.source.results
    assert results.predicted == ()
    assert not session.source.editor.begun
    assert "probabilities" not in vars(results)


@pytest.mark.parametrize(
    ("chosen", "seconds", "depths"),
    [
        (None, {}, [1, 2]),  # unknown: no further than depth 2
        (1, {}, [1]),
        (None, {"d1": 0.1, "d2": 0.2, "d3": 0.25, "d4": 0.29}, [4]),
        (None, {"d1": 0.1, "d2": 0.2, "d3": 0.5, "d4": 0.9}, [1, 2, 4]),
        (None, {"d1": 0.2, "d2": 0.5, "d3": 0.9, "d4": 1.1}, [1, 2, 3]),
        (None, {"d1": 0.2, "d2": 1.1, "d3": 1.2, "d4": 1.3}, [1]),
        (None, {"d1": 5, "d2": 6, "d3": 7, "d4": 8}, [1]),
        (2, {"d1": 0.1, "d2": 0.4}, [1, 2]),
        (2, {"d1": 0.1, "d2": 0.2}, [2]),
    ],
)
def test_how_deep_depends_on_how_fast(session, chosen, seconds, depths) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    session.predict_settings = FAST.model_copy(update={"depth": chosen})
    measured(session, **seconds)
    ways = passes_of(view_of(session, 1, AREA, LIVE), LIVE)
    assert [way.depth for way in ways] == depths


def test_other_networks_have_one_pass(session, tmp_path) -> None:
    session.choose_weights(thin_weights(tmp_path))
    found, _ = pictures(session)
    assert [(p.depth, p.total) for p in found] == [(None, 1)]


def test_the_whole_section_is_normalised_and_not_the_view(drawn_stack, tmp_path):
    values = np.asarray(drawn_stack[0].data).copy()
    values[:, :, :30] = 255  # beside the view, where it moves the percentiles
    session = Session(predict_settings=FAST)
    session.select("a", Stack(values))
    session.choose_weights(thin_weights(tmp_path))
    found, _ = pictures(session)
    drain(RunFactory(session).predict(RunScope((1,))).work)
    of_run = session.source.results.probabilities[1][AREA]
    np.testing.assert_allclose(found[0].values, of_run, atol=1e-5)


def test_inverted_stacks_are_inverted(drawn_stack, tmp_path) -> None:
    session = Session(predict_settings=FAST)
    session.select("a", drawn_stack[0])
    session.choose_weights(thin_weights(tmp_path))
    upright, _ = pictures(session)
    session.select("b", Stack(255 - np.asarray(drawn_stack[0].data)))
    session.predict_settings = FAST.model_copy(update={"invert": "yes"})
    inverted, _ = pictures(session)
    np.testing.assert_allclose(inverted[0].values, upright[0].values, atol=0.02)


def test_it_can_be_stopped_between_tiles(session) -> None:
    small = LiveSettings(tile=128)
    session.predict_settings = FAST.model_copy(update={"depth": 1})
    session.select("b", Stack(np.tile(session.source.stack.data, (1, 3, 3))))
    view = view_of(session, 1, None, small)
    work = Live(small).run(view)
    for record in work:
        if isinstance(record, Progress) and record.step == "preview":
            assert record.total > 1
            break
    work.close()


def test_the_section_is_read_once(session) -> None:
    read = []

    class Counted:
        def __init__(self, data) -> None:
            self._data = data
            self.shape, self.dtype = data.shape, data.dtype

        def __getitem__(self, key):
            read.append(key)
            return self._data[key]

    session.predict_settings = FAST.model_copy(update={"invert": "no"})
    session.select("a", Stack(Counted(session.source.stack.data)))
    live = Live()
    pictures(session, live=live)
    pictures(session, live=live)
    assert read == [1]
    pictures(session, 2, live)
    assert read == [1, 2]


def test_what_has_no_preview_says_why(session, tmp_path) -> None:
    def why(z: int = 1, area=AREA, settings: LiveSettings = LIVE) -> str:
        with pytest.raises(ValueError, match=r".") as refusal:
            list(Live().run(view_of(session, z, area, settings)))
        return str(refusal.value)

    session.exclude(2)
    session.review(3)
    assert why(2) == "no preview: section 2 is excluded"
    assert why(3) == "no preview: section 3 is reviewed"
    small = LiveSettings(most_megapixels=0.0025)
    assert why(1, None, small) == (
        "zoom in: 96 × 112 px are on screen, at most 50² are predicted"
    )
    session.choose_weights(None)
    assert why() == "no preview: choose weights first"
    session.deselect()
    assert why() == "no preview: choose stack first"


def test_what_is_on_screen_already_is_not_predicted_again(
    session, runs, tmp_path
) -> None:
    drain(runs.predict(RunScope((1,), AREA)).work)
    view = view_of(session, 1, AREA, LIVE)
    with pytest.raises(ValueError, match="up to date"):
        next(Live().run(view))
    session.choose_settings(FAST.model_copy(update={"depth": 1}))
    assert len(pictures(session)[0]) == 1
    session.choose_weights(thin_weights(tmp_path))
    assert len(pictures(session)[0]) == 1


def test_reviewed_sections_have_one_if_runs_go_over_them(session) -> None:
    session.review(1)
    session.redo_reviewed = True
    assert len(pictures(session)[0]) == 2


def test_the_speed_is_told_and_decides(session) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    size = session.source.stack.voxel_size_nm
    paces = paces_of(session.weights, FAST, size)
    assert paces == {}
    assert is_quick(paces, LIVE) is None
    for depth in (1, 2):
        way = FAST.model_copy(update={"depth": depth})
        throughput.remember(session.weights, way, 200 * depth)
    paces = paces_of(session.weights, FAST, size)
    assert set(paces) == {1, 2, 3, 4}  # the others by the card
    assert 0.05 < paces[1] < 0.2  # 512² px are 0.26 Mpx, and a halo
    assert is_quick(paces, LIVE) is True
    assert format_paces({1: 0.061, 2: 0.9, 4: 3}) == (
        "512² px take 0.061 s at depth 1, 0.9 s at depth 2 here"
    )
    assert is_quick({1: 0.31, 2: 0.5}, LIVE) is False
    assert is_quick({1: 0.2, 2: 1.1}, LIVE) is False
    assert is_quick({1: 0.2, 2: 0.9, 4: 9}, LIVE) is True
    assert is_quick({None: 1.2}, LIVE) is False
    assert format_paces({None: 1.2}) == "512² px take 1.2 s here"
