from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_emseg.cli import progress
from napari_emseg.cli.progress import StopRequest
from napari_emseg.core.records import Progress
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.models.weights import read_weights

SMALL = (
    *("--network.base", "2", "--network.levels", "2", "--steps", "4", "--patch", "32"),
    *("--batch", "2", "--validate-every", "2"),
)


def test_trains_and_prints_the_card(emseg, em_file, cells_file):
    done = emseg(
        *("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells"),
        *(*SMALL, "--held-out", "3", "--augment.noise", "0.2"),
    )

    assert done.code == 0
    assert "validated on em, section 2" in done.out
    assert "held out     em, section 3" in done.out
    assert "step 4/4" in done.err
    card = read_weights(Path("mine.safetensors")).card
    assert (card.config["base"], card.config["levels"]) == (2, 2)
    assert card.training.settings["augment"]["noise"] == 0.2
    used = emseg("predict", em_file, "out.tif", "--weights", "mine.safetensors")
    assert used.code == 0


def test_json_holds_the_card(emseg, em_file, cells_file):
    done = emseg(
        *("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells"),
        *(*SMALL, "--json"),
    )
    assert json.loads(done.out)["card"]["name"] == "mine"


def test_sections_that_nobody_drew_are_named_by_their_numbers(
    emseg, em_file, cells_file, tmp_path
):
    """Of four sections the last one isn't drawn, so the third one validates."""
    cells = open_stack(cells_file)
    some = np.stack([cells.section(z) for z in range(4)])
    some[3] = 0
    save_stack(tmp_path / "some.tif", Stack(some))
    done = emseg(
        *("train", em_file, "some.tif", "mine.safetensors", "--labels-are", "cells"),
        *SMALL,
    )
    assert done.code == 0
    assert "section 3 of some left out: nothing is labelled there" in done.err
    assert "trained on   em, sections 0, 1\n" in done.out
    assert "validated on em, section 2\n" in done.out
    save_stack(tmp_path / "none.tif", Stack(some * 0))
    done = emseg(
        *("train", em_file, "none.tif", "none.safetensors", "--labels-are", "cells"),
        *SMALL,
    )
    assert done.code == 2
    assert "nothing is labelled in sections 0-3: no value above 0" in done.err


def test_sections_of_one_class_are_taken_for_undrawn(
    emseg, em_file, cells_file, tmp_path
):
    """Black membranes on white, as ISBI has them: undrawn sections are all white."""
    cells = open_stack(cells_file)
    some = np.stack([(cells.section(z) > 0) * np.uint8(255) for z in range(4)])
    some[1] = 255
    save_stack(tmp_path / "some.tif", Stack(some))
    done = emseg(
        *("train", em_file, "some.tif", "mine.safetensors", "--labels-are", "inside"),
        *SMALL,
    )
    assert done.code == 0
    assert "section 1 of some left out: one class from edge to edge" in done.err
    assert "trained on   em, sections 0, 2\n" in done.out
    assert "(fixed on the validation set)" in done.out
    save_stack(tmp_path / "full.tif", Stack(some | 1))
    done = emseg(
        *("train", em_file, "full.tif", "none.safetensors", "--labels-are", "membrane"),
        *SMALL,
    )
    assert done.code == 2
    assert "full: nothing but membrane in sections 0-3" in done.err


def test_labels_that_look_inverted_are_asked_about(emseg, em_file, cells_file):
    cells = open_stack(cells_file)
    walls = np.stack([cells.section(z) == 0 for z in range(4)]).astype(np.uint8)
    save_stack("walls.tif", Stack(walls))
    words = ("train", em_file, "walls.tif", "mine.safetensors", *SMALL, "--labels-are")
    done = emseg(*words, "inside")
    assert done.code == 0
    assert "of walls is membrane, usual are 10 to 35 %: is it membrane" in done.err
    assert "usual are" not in emseg(*words, "membrane", "--overwrite").err


def test_a_threshold_without_validation_is_not_called_fixed(
    emseg, em_file, cells_file, tmp_path
):
    one = np.stack([open_stack(cells_file).section(z) for z in range(4)])
    one[1:] = 0
    save_stack(tmp_path / "one.tif", Stack(one))
    done = emseg(
        *("train", em_file, "one.tif", "mine.safetensors", "--labels-are", "cells"),
        *SMALL,
    )
    assert done.code == 0
    assert "threshold    0.5 (not fixed: no validation set)" in done.out


@pytest.mark.parametrize("torch_file", [False, True])
def test_files_that_are_called_like_a_checkpoint_stay(
    emseg, em_file, cells_file, torch_file
):
    """One that is in the way of the next, too."""
    mine = Path("mine.checkpoint")
    if torch_file:
        torch.save({"state_dict": {}}, mine)
    else:
        mine.write_text("my notes")
    before = mine.read_bytes()
    Path("mine.checkpoint.not-used").write_text("older")
    done = emseg(
        *("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells"),
        *SMALL,
    )
    assert done.code == 0
    assert "it was renamed mine.checkpoint.not-used1" in " ".join(done.err.split())
    assert Path("mine.checkpoint.not-used1").read_bytes() == before
    assert Path("mine.checkpoint.not-used").read_text() == "older"
    assert not mine.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_called_again_it_ends_with_the_same_weights(
    number, emseg, em_file, cells_file
):
    words = [
        *("train", str(em_file), str(cells_file)),
        *("--labels-are", "cells", *SMALL[:4], "--steps", "40", *SMALL[6:]),
    ]
    assert emseg(*words, "whole.safetensors").code == 0
    program = [sys.executable, "-c", "from napari_emseg.cli import main; main()"]
    for seen in ("step 6/40", "step 22/40"):
        with subprocess.Popen(
            [*program, *words, "killed.safetensors"], stderr=subprocess.PIPE, text=True
        ) as run:
            assert any(seen in line for line in run.stderr)
            run.send_signal(number)
    assert not Path("killed.safetensors").exists()
    done = emseg(*words, "killed.safetensors")
    assert done.code == 0
    assert "step 22/40" not in done.err
    whole, again = (
        read_weights(Path(f"{name}.safetensors")).network().state_dict()
        for name in ("whole", "killed")
    )
    for key, value in whole.items():
        np.testing.assert_allclose(value, again[key], atol=1e-5, err_msg=key)
    with pytest.raises(FileNotFoundError):
        Path("killed.checkpoint").stat()


def test_going_on_with_other_sections_is_refused(emseg, em_file, cells_file, tmp_path):
    """Else the card would call sections held out that were learnt."""
    words = (
        *("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells"),
        *SMALL,
    )
    with pytest.MonkeyPatch.context() as context:
        context.setattr(progress, "stop_on_signals", stopping_after(3))
        assert emseg(*words, "--sections", "0:2").code == 130
    before = Path("mine.checkpoint").read_bytes()
    done = emseg(*words, "--sections", "2:4", "--held-out", "0", "--validation", "1")
    assert done.code == 2
    assert "mine.checkpoint belongs to a run with training on sections 0-1 (now" in (
        " ".join(done.err.split())
    )
    assert Path("mine.checkpoint").read_bytes() == before


def stopping_after(records):
    """Return what asks for a stop after some records, as Ctrl-C would."""

    class Asked(StopRequest):
        def __call__(self):
            self.signal = signal.SIGINT if next(counted) > records else None
            return super().__call__()

    counted = count(1)
    return lambda: nullcontext(Asked())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--labels-are"),
        (["--labels-are", "walls"], "walls"),
        (["--labels-are", "cells", "--arch", "unot"], "unknown architecture 'unot'"),
        (["--labels-are", "cells", "--network.base", "0"], "base"),
        (["--labels-are", "cells", "--encoder-weights", "r.pth"], "encoder is not"),
        (["--labels-are", "cells", "--network.bass", "4"], "unet has no bass; its"),
        (["--labels-are", "cells", "--steps", "0"], "--steps must be"),
        (["--labels-are", "cells", "--augment.noise", "4"], "--augment.noise must be"),
        (["--labels-are", "cells", "--validation", "7"], "em has sections 0:4"),
        (["--labels-are", "cells", "--device", "cuda"], "no device 'cuda'"),
    ],
)
def test_wrong_options_are_refused(emseg, em_file, cells_file, options, said):
    if "cuda" in options:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
    done = emseg("train", em_file, cells_file, "mine.safetensors", *options)
    assert done.code == 2
    assert said in done.err
    assert not Path("mine.safetensors").exists()


def test_outputs_that_cannot_be_are_refused_before_training(emseg, em_file, cells_file):
    words = ("train", em_file, cells_file)
    meaning = ("--labels-are", "cells", *SMALL)
    Path("old.safetensors").write_bytes(b"precious")
    assert "exists already" in emseg(*words, "old.safetensors", *meaning).err
    assert Path("old.safetensors").read_bytes() == b"precious"
    assert "does not exist" in emseg(*words, "no/w.safetensors", *meaning).err
    assert "end in .safetensors" in emseg(*words, "w.pt", *meaning).err


def test_labels_of_another_shape_are_refused(emseg, em_file, cells_file):
    from napari_emseg.io import open_stack, save_stack

    save_stack("short.tif", open_stack(cells_file).data[:3])
    done = emseg(
        *("train", em_file, "short.tif", "w.safetensors", "--labels-are", "cells"),
    )
    assert done.code == 2
    assert "labels are" in done.err


def test_ctrl_c_keeps_the_step_and_the_same_command_goes_on(
    emseg, em_file, cells_file, monkeypatch
):
    words = ("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells")
    show = progress._Display.show

    def interrupt(self, record):
        show(self, record)
        if record == Progress("training", 3, 4):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as context:
        context.setattr(progress._Display, "show", interrupt)
        done = emseg(*words, *SMALL)
    assert done.code == 130
    assert "stopped: the same command goes on from mine.checkpoint" in done.err
    assert not Path("mine.safetensors").exists()

    done = emseg(*words, *SMALL)
    assert done.code == 0
    assert "going on from mine.checkpoint" in done.err
    assert "step 2/4" not in done.err
    assert "step 4/4" in done.err
    assert not Path("mine.checkpoint").exists()


def test_neighbours_and_affinities_are_asked_for(emseg, em_file, cells_file):
    done = emseg(
        *("train", em_file, cells_file, "mine.safetensors", "--labels-are", "cells"),
        *(*SMALL, "--context", "3", "--affinities"),
    )
    assert done.code == 0
    assert "sees         3 sections" in done.out
    assert "classes      membrane, inside\n" in done.out
    assert "affinities   z 1, y 1 3 9, x 1 3 9" in done.out
    card = read_weights(Path("mine.safetensors")).card
    assert card.context == card.config["context"] == 3
    assert card.classes[2:] == card.affinity_classes
    wrong = emseg(
        *("train", em_file, cells_file, "x.safetensors", "--labels-are", "cells"),
        *(*SMALL, "--context", "4"),
    )
    assert wrong.code == 2
