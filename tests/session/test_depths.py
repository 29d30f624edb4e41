from __future__ import annotations

import pytest
from nested import nested_weights
from thin import thin_weights

from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import throughput
from napari_emseg.session import RunScope, Session
from napari_emseg.session.live import depths_of, iter_measure_depths

FAST = PredictSettings(runtime="torch", device="cpu", threads=1)


@pytest.fixture
def session(drawn_stack, tmp_path) -> Session:
    session = Session(predict_settings=FAST)
    session.select("a", drawn_stack[0])
    session.choose_weights(nested_weights(tmp_path))
    return session


@pytest.fixture
def found(session):
    """What is known of each depth for a run over one section."""

    def found(**settings):
        way = session.predict_settings.model_copy(update=settings)
        return depths_of(session.weights, way, session.source.stack, RunScope((0,)))

    return found


def test_each_depth_has_its_parameters_and_its_score(found, session) -> None:
    rows = found()
    assert [row.depth for row in rows] == [1, 2, 3, 4]
    for row in rows:
        network = session.weights.at(row.depth).network()
        assert row.parameters == sum(p.numel() for p in network.parameters())
        assert row.v_rand == pytest.approx(0.9 + row.depth / 100)
        assert row.seconds is None


def test_a_score_belongs_to_its_heads_and_mirrors(found) -> None:
    assert {row.v_rand for row in found(tta=True)} == {None}
    mean = found(heads="mean")
    assert mean[0].v_rand == pytest.approx(0.91)  # the mean of one head is that head
    assert {row.v_rand for row in mean[1:]} == {None}


def test_networks_without_depth_have_no_dial(tmp_path) -> None:
    assert depths_of(thin_weights(tmp_path), FAST) == []


def test_measured_times_are_told_and_others_follow_from_the_card(
    found, session
) -> None:
    drain(iter_measure_depths(session.weights, FAST, [2]))
    rows = found()
    assert [row.measured for row in rows] == [False, True, False, False]
    one, two, _, four = (row.seconds for row in rows)
    assert two > 0
    assert one == pytest.approx(two / 2)
    assert four == pytest.approx(2 * two)


def test_a_run_of_whole_weights_counts_for_the_deepest(found, session) -> None:
    throughput.remember(session.weights, FAST, 50.0)
    assert found()[-1].measured
    assert not found()[0].measured


def test_a_threshold_comes_with_its_depth(session) -> None:
    assert session.cell_settings.threshold == 0.4
    shallow = session.predict_settings.model_copy(update={"depth": 2})
    session.choose_settings(shallow)
    assert session.predict_settings == shallow
    assert session.cell_settings.threshold == 0.2


def test_a_threshold_of_the_users_own_stays(session) -> None:
    chosen = session.cell_settings.model_copy(update={"threshold": 0.77})
    session.cell_settings = chosen
    session.choose_settings(session.predict_settings.model_copy(update={"depth": 2}))
    assert session.cell_settings.threshold == 0.77


def test_each_section_knows_the_depth_that_made_it(session, runs) -> None:
    for z, depth in ((0, 1), (1, 3)):
        settings = session.predict_settings.model_copy(update={"depth": depth})
        session.choose_settings(settings)
        drain(runs.predict(RunScope((z,))).work)
    made = session.source.results.made
    assert {z: made[z].settings["depth"] for z in made} == {0: 1, 1: 3}
    assert (made[0].threshold, made[1].threshold) == (0.1, 0.3)
    session.exclude(0)
    drain(runs.predict(RunScope((0, 1))).work)
    assert set(made) == {1}
