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
views, side = int(sys.argv[4]), int(sys.argv[5])


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
    shape, dtype = (n, side, side), np.dtype("uint8")

    def __getitem__(self, key):
        z, *area = key if isinstance(key, tuple) else (key,)
        if isinstance(z, slice):
            return np.stack([self[(k, *area)] for k in range(n)[z]])
        random = np.random.default_rng(z)
        return random.integers(0, 256, (side, side), dtype=np.uint8)[tuple(area)]


card = Card(name="one", architecture="one-layer")
weights = save_weights(folder / "w.safetensors", OneLayer(Config()).state_dict(), card)
settings = PredictSettings(device="cpu", runtime=runtime, threads=1, views=views)
stack = Stack(Lazy(), voxel_size_nm=(4, 4, 4))
with open_sink(folder / "out.tif", Lazy.shape, np.float32) as sink:
    drain(Predictor(weights).run(stack, settings=settings, sink=sink))
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_three_views_does_not_either(tmp_path: Path) -> None:
    """Bands are 384 sections deep here, and the first stack has two already."""
    peak = {
        n: peak_megabytes(n, tmp_path / str(n), "torch", views=3, side=96)
        for n in (768, 3072)
    }
    assert peak[3072] < 1.1 * peak[768], peak


def peak_megabytes(
    n: int, folder: Path, runtime: str, *, views: int = 1, side: int = 512
) -> float:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, (n, folder, runtime, views, side))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1000
