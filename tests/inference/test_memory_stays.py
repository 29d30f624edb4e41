"""Memory must not grow with the number of sections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from napari_emseg.core.card import Card
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import Predictor
from napari_emseg.io import open_sink
from napari_emseg.models.weights import save_weights
from napari_emseg.models.zoo import NetworkConfig, register

n, folder, runtime = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


class Config(NetworkConfig):
    pass


@register("one-layer")
class OneLayer(nn.Module):
    Config = Config
    activation = "softmax"
    geometry = Geometry(1, 1)
    bytes_per_pixel = 20.0

    def __init__(self, config):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.convolution(x)


class Lazy:
    shape, dtype = (n, 512, 512), np.dtype("uint8")

    def __getitem__(self, z):
        return np.random.default_rng(z).integers(0, 256, (512, 512), dtype=np.uint8)


card = Card(name="one", architecture="one-layer")
weights = save_weights(folder / "w.safetensors", OneLayer(Config()).state_dict(), card)
settings = PredictSettings(device="cpu", runtime=runtime, threads=1)
with open_sink(folder / "out.tif", Lazy.shape, np.float32) as sink:
    drain(Predictor(weights).run(Stack(Lazy()), settings=settings, sink=sink))
lines = Path("/proc/self/status").read_text().splitlines()
(folder / "out.tif").unlink()
print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("runtime", ["torch", "auto"])
def test_memory_does_not_grow_with_the_number_of_sections(
    tmp_path: Path, runtime: str
) -> None:
    peak = {n: peak_megabytes(n, tmp_path / str(n), runtime) for n in (200, 2000)}
    assert peak[2000] - peak[200] < 100, peak


def peak_megabytes(n: int, folder: Path, runtime: str) -> float:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(n), str(folder), runtime],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1000
