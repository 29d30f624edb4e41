"""Files that this package writes, opened by the libraries of other programs.

Their libraries hold each other's versions, so each may need an environment of its own:

    python benchmarks/other_programs.py write FOLDER     with this package
    …/bin/python benchmarks/other_programs.py check FOLDER     in each environment
    python benchmarks/other_programs.py page FOLDER      into docs/formats.md

`check` needs NumPy and whichever of the libraries are there, not this package.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

SIZE = (50.0, 4.0, 4.0)
INSIDE = 100
"""Pixels from the border that the comparison of predictions leaves out."""


def write(folder: Path) -> None:
    """Write a drawn picture and its cells in every form, and a package."""
    from napari_emseg.api import predict
    from napari_emseg.core.records import drain
    from napari_emseg.core.settings import PredictSettings
    from napari_emseg.core.stack import Stack
    from napari_emseg.io import save_stack
    from napari_emseg.io.writing import iter_save_labelled
    from napari_emseg.models.exporting import export_weights
    from napari_emseg.models.weights import load_weights
    from napari_emseg.sample import bundled, synthetic
    from napari_emseg.segmentation.meshes import saving_meshes

    folder.mkdir(parents=True)
    stack, ids = synthetic((20, 300, 280), seed=3, voxel_size_nm=SIZE)
    cells = Stack(ids, name="cells", voxel_size_nm=SIZE)
    np.save(folder / "em.npy", np.asarray(stack.data[:]))
    np.save(folder / "cells.npy", ids)
    for name in ("tif", "mrc", "h5"):
        save_stack(folder / f"em.{name}", stack)
    for form in ("zarr", "zarr-3d", "zarr-0.4"):
        work = iter_save_labelled(folder / f"{form}.zarr", stack, cells, format=form)
        drain(work)
    place = folder / "cells.precomputed"
    drain(saving_meshes(cells, place, largest=5, format="neuroglancer"))
    weights = load_weights("isbi2012-unet")
    export_weights(weights, folder / "isbi2012-unet.zip")
    settings = PredictSettings(device="cpu", runtime="torch", invert="no")
    wide = np.asarray(bundled.vnc().data[:1])
    np.save(folder / "wide.npy", wide)
    found = predict(wide, weights, settings=settings)
    np.save(folder / "wide-membrane.npy", np.asarray(found))


def _same(found: object, folder: Path, name: str) -> str:
    expected = np.load(folder / f"{name}.npy")
    same = np.array_equal(np.squeeze(np.asarray(found)), expected)
    return "every value" if same else "OTHER VALUES"


def check_tifffile(folder: Path) -> str:
    """TIFF."""
    import tifffile

    return f"{_same(tifffile.imread(folder / 'em.tif'), folder, 'em')} of a TIFF"


def check_mrcfile(folder: Path) -> str:
    """MRC."""
    import mrcfile

    with mrcfile.open(folder / "em.mrc") as file:
        sizes = [round(float(file.voxel_size[a]) / 10, 3) for a in "zyx"]
        # bytes are signed in MRC: -128 is the darkest, as IMOD shows them
        values = np.asarray(file.data)[:, ::-1].astype(np.int16) + 128
    return f"{_same(values, folder, 'em')} of an MRC (rows from below), {sizes} nm"


def check_h5py(folder: Path) -> str:
    """HDF5."""
    import h5py

    with h5py.File(folder / "em.h5") as file:
        values = next(iter(file.values()))[()]
    return f"{_same(values, folder, 'em')} of an HDF5"


def check_zarr(folder: Path) -> str:
    """OME-Zarr, both versions."""
    import zarr

    said = []
    for form in ("zarr", "zarr-3d", "zarr-0.4"):
        group = zarr.open_group(folder / f"{form}.zarr", mode="r")
        both = {
            _same(group["0"][:], folder, "em"),
            _same(group["labels/cells/0"][:], folder, "cells"),
        }
        said.append(f"{form}: {', '.join(both)}")
    return "; ".join(said)


def check_webknossos(folder: Path) -> str:
    """Datasets of webKnossos."""
    import webknossos

    said = set()
    for form in ("zarr", "zarr-3d", "zarr-0.4"):
        dataset = webknossos.Dataset.open(folder / f"{form}.zarr")
        for layer, name in (("image", "em"), ("cells", "cells")):
            values = dataset.get_layer(layer).get_mag(1).read()
            said.add(_same(values, folder, name))
        largest = dataset.get_layer("cells").largest_segment_id
        if largest != int(np.load(folder / "cells.npy").max()):
            said.add("ANOTHER LARGEST ID")
        if tuple(dataset.voxel_size) != SIZE[::-1]:
            said.add("ANOTHER VOXEL SIZE")
    words = ", ".join(sorted(said))
    return f"`Dataset.open` on zarr, zarr-3d, zarr-0.4: {words}, size, largest id"


def check_tensorstore(folder: Path) -> str:
    """Precomputed segmentations."""
    import tensorstore

    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{folder.absolute()}/cells.precomputed/",
    }
    values = tensorstore.open(spec).result().read().result()
    ids = np.asarray(values)[..., 0].transpose()
    return f"{_same(ids, folder, 'cells')} of precomputed cells"


def check_cloudvolume(folder: Path) -> str:
    """Precomputed segmentations and their meshes."""
    import cloudvolume

    place = (folder / "cells.precomputed").absolute()
    volume = cloudvolume.CloudVolume(f"precomputed://file://{place}", progress=False)
    ids = np.asarray(volume[:])[..., 0].transpose()
    cells = np.load(folder / "cells.npy")
    fragments = sorted((place / "mesh").glob("*.fragment"))
    for path in fragments:
        cell = int(path.stem)
        mesh = volume.mesh.get(cell)
        mesh = mesh[cell] if isinstance(mesh, dict) else mesh
        inside = np.argwhere(cells == cell)
        low, high = inside.min(axis=0) * SIZE, (inside.max(axis=0) + 1) * SIZE
        ends = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        if not np.allclose(ends, (low[::-1], high[::-1])):
            return f"mesh {cell} lies elsewhere"
    meshes = f"{len(fragments)} meshes that end where their voxels do"
    return f"{_same(ids, folder, 'cells')} of precomputed cells; {meshes}"


def _offline() -> None:
    """Have the maintainer's name at GitHub known, which would be looked up."""
    from bioimageio.spec._internal import field_validation

    field_validation.KNOWN_GITHUB_USERS.add("napari-emseg")


def check_bioimageio_spec(folder: Path) -> str:
    """Take the collection's checks, with every note an error."""
    from bioimageio.spec import ValidationContext, load_description

    _offline()
    with ValidationContext(warning_level=20, perform_io_checks=True):
        found = load_description(folder / "isbi2012-unet.zip")
    status = found.validation_summary.status
    return f"the package: {status} with notes as errors (GitHub not asked)"


def check_bioimageio_core(folder: Path) -> str:
    """Run a package by blocks and in one piece."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    _offline()
    model = load_model_description(folder / "isbi2012-unet.zip")
    wide = np.load(folder / "wide.npy")
    ours = np.load(folder / "wide-membrane.npy")[0]
    said = []
    kind = "torchscript"
    with create_prediction_pipeline(model, weight_format=kind, devices=["cpu"]) as run:
        ways = {
            "by blocks": run.predict_sample_with_blocking,
            "in one piece": run.predict_sample_without_blocking,
        }
        for words, predict in ways.items():
            sample = create_sample_for_model(model, inputs={"em": wide[None]})
            tensor = predict(sample).members["probabilities"].data
            off = np.abs(np.asarray(getattr(tensor, "data", tensor))[0, 0] - ours)
            inner = off[INSIDE:-INSIDE, INSIDE:-INSIDE]
            said.append(
                f"{words} {off.max():.5f}, {INSIDE} px inside {inner.max():.5f}"
            )
    return f"the package against `predict`, largest difference: {'; '.join(said)}"


CHECKS: dict[str, Callable[[Path], str]] = {
    "tifffile": check_tifffile,
    "mrcfile": check_mrcfile,
    "h5py": check_h5py,
    "zarr": check_zarr,
    "tensorstore": check_tensorstore,
    "cloud-volume": check_cloudvolume,
    "webknossos": check_webknossos,
    "bioimageio.spec": check_bioimageio_spec,
    "bioimageio.core": check_bioimageio_core,
}


def check(folder: Path) -> None:
    """Try every library that is here, and note what was seen."""
    notes = folder / "seen.json"
    seen = json.loads(notes.read_text()) if notes.exists() else {}
    for name, run in CHECKS.items():
        try:
            number = version(name)
        except PackageNotFoundError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                words = run(folder)
            except Exception as e:  # noqa: BLE001 - the row says so
                words = f"FAILED: {type(e).__name__}: {e}"[:200]
        seen[f"{name} {number}"] = words
        print(f"{name} {number}: {words}")
    notes.write_text(json.dumps(seen, indent=1))


def page(folder: Path) -> None:
    """Write the table into the page."""
    from pages import put, table

    seen = json.loads((folder / "seen.json").read_text())
    rows = sorted((name, words) for name, words in seen.items())
    put("formats.md", "other-programs", table(("library", "seen"), rows))


if __name__ == "__main__":
    {"write": write, "check": check, "page": page}[sys.argv[1]](Path(sys.argv[2]))
