from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from napari_emseg.cli import follow
from napari_emseg.core.records import Progress
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
    assert "validated on em, sections 2" in done.out
    assert "held out     em, sections 3" in done.out
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--labels-are"),
        (["--labels-are", "walls"], "walls"),
        (["--labels-are", "cells", "--arch", "unot"], "unknown architecture 'unot'"),
        (["--labels-are", "cells", "--network.base", "0"], "base"),
        (["--labels-are", "cells", "--encoder-weights", "r.pth"], "encoder is not"),
        (["--labels-are", "cells", "--network.bass", "4"], "bass"),
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
    show = follow._Display.show

    def interrupt(self, record):
        show(self, record)
        if record == Progress("training", 3, 4):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as context:
        context.setattr(follow._Display, "show", interrupt)
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
