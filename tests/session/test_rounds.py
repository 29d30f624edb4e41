"""Lists of rounds, also those that somebody else has made."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from thin import thin_weights

from napari_emseg.core.paths import UnsafePathError
from napari_emseg.io.errors import UnreadableError
from napari_emseg.session import Session
from napari_emseg.session.learning import Learning
from napari_emseg.session.rounds import Round, read_rounds, write_rounds
from napari_emseg.training.measures import Comparison, Interval

BEGAN = "2026-01-01T00:00:00Z"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Weights of the user's own, and a night of training."""
    (tmp_path / "mine").mkdir()
    weights = thin_weights(tmp_path)
    shutil.copy(weights.path, tmp_path / "mine" / "good.safetensors")
    (tmp_path / "mine" / "good.checkpoint").write_text("a night of training")
    return tmp_path / "mine"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a stranger's weights and their list are."""
    folder = tmp_path / "theirs.emseg" / "weights"
    (folder / "candidates").mkdir(parents=True)
    return folder


def listed(folder: Path, **values: object) -> Path:
    line = {"name": "r", "state": "candidate", "file": "r.safetensors", "began": BEGAN}
    path = folder / "rounds.json"
    path.write_text(json.dumps({"rounds": [line | values]}))
    return path


@pytest.mark.parametrize(
    "file",
    [
        "../../mine/good.safetensors",
        "{mine}/good.safetensors",
        "candidates/../../../mine/good.safetensors",
        "candidates/../x.safetensors",
        "other/x.safetensors",
        "x.checkpoint",
        "C:x.safetensors",
        "..\\x.safetensors",
        ".safetensors/../x",
        "",
    ],
)
def test_a_round_names_only_weights_of_its_folder(
    mine: Path, folder: Path, session: Session, learning: Learning, file: str
) -> None:
    listed(folder, file=file.format(mine=mine))
    with pytest.raises(UnsafePathError, match="which is refused"):
        read_rounds(folder)
    learning.folder = folder
    assert learning.rounds == ()
    assert str(folder) in learning.ledger.trouble
    assert sorted(path.name for path in mine.iterdir()) == [
        "good.checkpoint",
        "good.safetensors",
    ]


def test_candidates_behind_a_link_are_refused(mine: Path, folder: Path) -> None:
    (folder / "candidates").rmdir()
    (folder / "candidates").symlink_to(mine)
    listed(folder, file="candidates/good.safetensors")
    with pytest.raises(UnsafePathError, match="is a link to"):
        read_rounds(folder)


@pytest.mark.parametrize("decide", ["accept", "reject"])
def test_a_linked_candidate_leaves_what_it_leads_to(
    mine: Path, folder: Path, session: Session, learning: Learning, decide: str
) -> None:
    shutil.copy(mine / "good.safetensors", folder / "candidates" / "r.safetensors")
    (folder / "candidates" / "r.checkpoint").symlink_to(mine / "good.checkpoint")
    listed(folder, file="candidates/r.safetensors")
    learning.folder = folder
    getattr(learning, decide)("r")
    assert not os.path.lexists(folder / "candidates" / "r.checkpoint")
    assert (mine / "good.checkpoint").read_text() == "a night of training"


def test_accepting_replaces_no_other_weights(
    mine: Path, folder: Path, session: Session, learning: Learning
) -> None:
    (folder / "r.safetensors").write_text("another's")
    shutil.copy(mine / "good.safetensors", folder / "candidates" / "r.safetensors")
    listed(folder, file="candidates/r.safetensors")
    learning.folder = folder
    with pytest.raises(FileExistsError, match="isn't replaced"):
        learning.accept("r")
    assert (folder / "r.safetensors").read_text() == "another's"
    assert (folder / "candidates" / "r.safetensors").exists()


def test_no_round_begins_behind_a_link(
    mine: Path, folder: Path, session: Session, learning: Learning
) -> None:
    session.review(0)
    (folder / "candidates").rmdir()
    (folder / "candidates").symlink_to(mine)
    learning.folder = folder
    with pytest.raises(UnsafePathError, match="is a link to"):
        learning.start()
    assert learning.rounds == ()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"rounds": 3}',
        b'{"rounds": [{"name": "r"}]}',
        b'{"rounds": [{"name": "r", "state": "candidate", "file": "r.safetensors", '
        b'"began": "2026-01-01T00:00:00"}]}',
        b'{"rounds": ' + b"[" * 9**5,
    ],
)
def test_a_damaged_list_is_said_and_stays(
    folder: Path, session: Session, learning: Learning, content: bytes
) -> None:
    (folder / "rounds.json").write_bytes(content)
    with pytest.raises(UnreadableError, match=r"rounds\.json is damaged"):
        read_rounds(folder)
    learning.folder = folder
    learning.changed.emit()
    learning.ledger.write(("membrane", "inside"))
    assert "rounds.json is damaged" in learning.ledger.trouble
    assert (folder / "rounds.json").read_bytes() == content


def test_a_name_of_weights_is_no_path(
    session: Session, learning: Learning, tmp_path: Path
) -> None:
    session.review(0)
    learning.folder = tmp_path / "own"
    used = session.weights
    assert used is not None
    named = used.card.model_copy(update={"name": "../../evil/x"})
    session.choose_weights(replace(used, card=named))
    learning.start()
    (round_,) = learning.rounds
    assert round_.output.parent == tmp_path / "own" / "candidates"


def test_what_was_measured_comes_back_with_the_list(mine: Path) -> None:
    comparison = Comparison(
        "worse",
        "held-out regions",
        9000,
        (),
        {"pixel_f": 0.9, "vi": 1.25, "splits": 4.0},
        {"pixel_f": 0.85, "vi": 1.5, "splits": 3.0},
        {"pixel_f": Interval(-0.05, -0.07, -0.025), "vi": Interval(0.25, nan, nan)},
    )
    path = mine / "good.safetensors"
    write_rounds(mine, [Round("good", "candidate", path, comparison=comparison)], ())
    (again,), _ = read_rounds(mine)
    assert again.comparison.words == comparison.words
    assert again.comparison.current == comparison.current
    assert again.comparison.candidate == comparison.candidate
    assert again.comparison.differences["pixel_f"] == Interval(-0.05, -0.07, -0.025)
    assert not again.comparison.differences["vi"].known
    json.loads((mine / "rounds.json").read_text(), parse_constant=pytest.fail)
