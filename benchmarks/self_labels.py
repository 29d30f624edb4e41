"""Label ISBI's unlabelled sections: `python benchmarks/self_labels.py`.

`isbi2012-unet`, which learnt from labelled sections, predicts the 30 sections of the
challenge's test stack, for which no labels are published, with averaged mirrors. The
recipes of other weights learn from that beside the true labels, so that thirteen
sections are not all that they see (self-training: Xie et al., CVPR 2020).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
import torch
from data_sets import DATA, ROOT, SELF_LABELLED

import napari_emseg as emseg
from napari_emseg.core.settings import PredictSettings
from napari_emseg.io import open_stack

TEACHER = "isbi2012-unet"


def main() -> None:
    """Predict, and write where it is inside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    data = DATA["isbi2012_self"]
    images = open_stack(args.data / data.images, voxel_size_nm=data.voxel_size_nm)
    settings = PredictSettings(tta=True, invert="no", threads=args.threads)
    membrane = emseg.predict(images, TEACHER, settings=settings)
    SELF_LABELLED.parent.mkdir(exist_ok=True)
    tifffile.imwrite(SELF_LABELLED, np.where(membrane < 0.5, 255, 0).astype(np.uint8))
    print(f"wrote {SELF_LABELLED}; {np.mean(membrane >= 0.5):.1%} is membrane")


if __name__ == "__main__":
    main()
