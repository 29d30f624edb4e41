from __future__ import annotations

import json

import pytest

from napari_emseg.cli import doctor
from napari_emseg.cli.doctor import Finding


def test_tells_devices_versions_and_memory(emseg, monkeypatch):
    there = Finding("bundled weights", True, "some", needed=True)
    monkeypatch.setattr(doctor, "_weights", lambda: there)
    done = emseg("doctor")
    assert done.code == 0
    for word in ("python", "memory", "torch", "napari-emseg", "CPU", "CUDA", "panels"):
        assert word in done.out


def test_json_is_one_object(emseg):
    record = json.loads(emseg("doctor", "--json").out)
    assert record["works"]["CPU"]["works"] is True
    assert record["versions"]["napari-emseg"]


def test_fails_when_the_main_job_cannot_be_done(emseg, monkeypatch):
    missing = Finding("bundled weights", False, "none", needed=True)
    monkeypatch.setattr(doctor, "_weights", lambda: missing)
    assert emseg("doctor").code == 1


@pytest.mark.parametrize(
    ("qt", "screen", "works", "said"),
    [
        (True, True, True, "Qt by PyQt6"),
        (True, False, False, "no screen"),
        (False, True, False, 'pip install "napari-emseg[all]"'),
    ],
)
def test_says_whether_a_window_can_open(monkeypatch, qt, screen, works, said):
    monkeypatch.setattr(doctor, "find_spec", lambda name: qt or None)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("DISPLAY", ":1")
    found = doctor.panels()
    assert found.works is works
    assert said in found.words


def test_napari_emseg_data_may_be_missing(without_data):
    found = doctor._data()
    assert (found.works, found.needed) == (False, False)
    assert "em-membranes" in found.words
    assert "pip install napari-emseg-data" in found.words
