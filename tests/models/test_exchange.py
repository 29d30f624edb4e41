"""Weights to BioImage.IO packages and back, and from files of others."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tifffile import imread
from written_onnx import onnx_of

from napari_emseg.core.card import Card
from napari_emseg.core.records import drain
from napari_emseg.io.errors import AmbiguousNetworkError, RemoteWeightsError
from napari_emseg.models import importing
from napari_emseg.models.exporting import (
    LEFT_OUT,
    MANIFEST,
    Credits,
    credits_of,
    export_weights,
    licence_of,
)
from napari_emseg.models.importing import import_weights, iter_import_weights
from napari_emseg.models.weights import Weights, load_weights, save_weights
from napari_emseg.models.zoo import build

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"base": 2, "levels": 2}),
    "valid": ("unet", {"base": 2, "levels": 1, "padding": "valid"}),
    "unetpp": ("unetpp", {"base": 2, "depth": 2}),
    "cenet": ("cenet", {"base": 4}),
}


def make(folder: Path, shape: str) -> Weights:
    """Save a small network that has learnt nothing but what values look like."""
    architecture, config = SHAPES[shape]
    torch.manual_seed(0)
    network = build(architecture, config)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.rand(2, 1, 192, 192))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.num_batches_tracked.fill_(4001)  # no number of float16
    card = Card(
        name=f"tiny-{shape}",
        architecture=architecture,
        config=config,
        pixel_size_nm=(4, 4),
        threshold=0.3,
    )
    return save_weights(folder / f"{shape}.safetensors", network.state_dict(), card)


@pytest.fixture(scope="module", params=SHAPES)
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Weights:
    return make(tmp_path_factory.mktemp("weights"), request.param)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make(tmp_path_factory.mktemp("weights"), "unet")


@pytest.fixture(scope="module")
def package(unet: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_weights(unet, tmp_path_factory.mktemp("zip") / "unet.zip")


def rewritten(package: Path, to: Path, **changes: bytes | None) -> Path:
    """Copy a package with some members changed, or left out if None."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data = changes.pop(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in changes.items():
            new.writestr(name, data or b"")
    return to


def manifest_of(package: Path) -> dict[str, Any]:
    with zipfile.ZipFile(package) as file:
        said: dict[str, Any] = yaml.safe_load(file.read(MANIFEST))
        return said


def with_manifest(package: Path, to: Path, said: object) -> Path:
    return rewritten(package, to, **{MANIFEST: yaml.safe_dump(said).encode()})


def outputs(weights: Weights) -> torch.Tensor:
    torch.manual_seed(1)
    picture = torch.rand(1, 1, 192, 192)
    with torch.inference_mode():
        logits: torch.Tensor = weights.network()(picture)
        return logits


def needs_bioimageio() -> None:
    """Skip where bioimageio.core isn't installed, or can't work."""
    pytest.importorskip(
        "bioimageio.core", reason="needs the extra napari-emseg[bioimageio]"
    )
    try:
        pydantic, spec = version("pydantic"), version("bioimageio.spec")
    except PackageNotFoundError:
        return

    def newer(text: str, bound: tuple[int, ...]) -> bool:
        return tuple(map(int, text.split(".")[: len(bound)])) >= bound

    if newer(pydantic, (2, 14)) and not newer(spec, (0, 5, 13)):
        pytest.skip(f"bioimageio.spec {spec} can't work with pydantic {pydantic}")


BIOIMAGEIO_ERRORS = "bioimageio.spec._internal.field_validation"


class TestCredits:
    def test_passes_the_strict_checks_of_the_collection(self, tmp_path: Path) -> None:
        """Not even a note is left, but that the name at GitHub can't be looked up."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(
                "bioimageio.spec", reason="needs the extra napari-emseg[bioimageio]"
            )
            from importlib import import_module

            from bioimageio.spec import ValidationContext, load_description

            import_module(BIOIMAGEIO_ERRORS).KNOWN_GITHUB_USERS.add("ada")
            weights = make(tmp_path, "unet")
            known = credits_of(
                weights, authors=("Ada",), maintainer="ada", licence="MIT"
            )
            path = export_weights(weights, tmp_path / "x.zip", known)
            with ValidationContext(warning_level=20, perform_io_checks=True):
                found = load_description(path)
            assert found.validation_summary.status == "valid-format", (
                found.validation_summary.format()
            )

    def test_says_who_made_it_and_what_to_cite(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        known = credits_of(
            unet, authors=("Ada", "Grace"), maintainer="ada-l", licence="CC-BY-4.0"
        )
        said = manifest_of(export_weights(unet, tmp_path / "x.zip", known))
        assert said["authors"] == [{"name": "Ada"}, {"name": "Grace"}]
        assert said["maintainers"] == [{"github_user": "ada-l"}]
        assert said["license"] == "CC-BY-4.0"
        # the architecture, and the data that the test picture is a crop of
        assert [each["doi"] for each in said["cite"]] == [
            "10.1007/978-3-319-24574-4_28",
            "10.1073/pnas.1509820112",
        ]

    def test_own_weights_are_nobody_elses(self, unet: Weights) -> None:
        found = credits_of(unet)
        assert (found.authors, found.licence) == ((), "")
        assert found.missing == ("its authors", "who maintains it", "its licence")

    def test_bundled_weights_are_complete(self) -> None:
        for name in ("isbi2012-unet", "isbi2012-unetpp", "isbi2012-cenet"):
            found = credits_of(load_weights(name))
            assert found.missing == ()
            assert found.licence == "BSD-3-Clause"

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("BSD-3-Clause; learnt from ISBI 2012", "BSD-3-Clause"),
            ("CC BY-NC-SA 3.0 (learnt from VNC)", "CC-BY-NC-SA-3.0"),
            ("CC BY 4.0", "CC-BY-4.0"),
            ("CC0 1.0", "CC0-1.0"),
            ("MIT", "MIT"),
            ("ours alone", ""),
            ("LIMITED", ""),
            ("", ""),
        ],
    )
    def test_licence_of_a_card(self, words: str, expected: str) -> None:
        card = Card(name="a", architecture="unet", licence=words)
        assert licence_of(card) == expected

    @pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b"])
    def test_what_is_no_name_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="an author is a name"):
            Credits(authors=(name,))

    def test_pictures_for_people(self, unet: Weights, package: Path) -> None:
        """A cover twice as wide as high, TIFFs of the test picture and its membranes"""
        with zipfile.ZipFile(package) as file:
            read = {
                name: file.read(name) for name in file.namelist() if name != MANIFEST
            }
        cover = Image.open(io.BytesIO(read["cover.png"]))
        height = np.load(io.BytesIO(read["test-input.npy"])).shape[-1]
        assert cover.size == (2 * height, height)
        assert len(read["cover.png"]) < 500_000  # as the collection wants it
        for name in ("input", "output"):
            shown = imread(io.BytesIO(read[f"sample-{name}.tif"]))
            tested = np.load(io.BytesIO(read[f"test-{name}.npy"]))
            assert np.array_equal(shown, tested)
        said = manifest_of(package)
        files = [
            *said["covers"],
            said["documentation"],
            *(each["sample_tensor"] for each in (*said["inputs"], *said["outputs"])),
        ]
        for each in files:
            assert sha256(read[each["source"]]).hexdigest() == each["sha256"]

    def test_a_short_or_odd_name_becomes_a_good_one(self, tmp_path: Path) -> None:
        weights = make(tmp_path, "unet")
        for name, expected in (("ü", "- EM membranes"), ("a/b.c" * 20, "a-b-c" * 13)):
            card = weights.card.model_copy(update={"name": name})
            changed = Weights(weights.path, card)
            said = manifest_of(export_weights(changed, tmp_path / "y.zip"))
            assert said["name"] == expected[:64]


class TestExport:
    @pytest.mark.parametrize("shape", [*SHAPES, "mean of heads"])
    def test_passes_the_test_of_bioimageio_core(
        self, shape: str, tmp_path: Path
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            needs_bioimageio()
            from bioimageio.core import test_model

            mean = shape == "mean of heads"
            weights = make(tmp_path, "unetpp" if mean else shape)
            weights = weights.at(2, "mean") if mean else weights
            path = export_weights(weights, tmp_path / "x.zip")
            for kind in ("pytorch_state_dict", "torchscript"):
                found = test_model(path, weight_format=kind, devices=["cpu"])
                assert found.status == "passed", found.format()

    def test_comes_back_as_it_was(self, made: Weights, tmp_path: Path) -> None:
        path = export_weights(made, tmp_path / "x.zip")
        again = import_weights(path, tmp_path / "again.safetensors")
        assert again.card == made.card
        assert torch.equal(outputs(again), outputs(made))
        assert again.path.stat().st_size == made.path.stat().st_size

    def test_test_output_is_what_a_run_gives(
        self, package: Path, unet: Weights
    ) -> None:
        """The package's own picture, by the one-call function of this one."""
        from napari_emseg.api import predict
        from napari_emseg.core.settings import PredictSettings

        with zipfile.ZipFile(package) as file:
            picture, expected = (
                np.load(io.BytesIO(file.read(f"test-{name}.npy")))
                for name in ("input", "output")
            )
        settings = PredictSettings(device="cpu", runtime="torch", invert="no")
        found = predict(
            picture[0], unet, classes=("membrane", "inside"), settings=settings
        )
        halo = unet.card.geometry.halo if unet.card.geometry else 0
        inner = (slice(None), 0, slice(halo, -halo), slice(halo, -halo))
        np.testing.assert_allclose(
            found[inner], expected[0][:, halo:-halo, halo:-halo], atol=1e-5
        )

    def test_holds_torchscript_that_runs_any_size(
        self, package: Path, unet: Weights
    ) -> None:
        with zipfile.ZipFile(package) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = io.BytesIO(file.read("weights-torchscript.pt"))
            script = torch.jit.load(data)
        picture = torch.rand(1, 1, 64, 100)
        with torch.inference_mode():
            torch.testing.assert_close(script(picture), unet.network()(picture))

    def test_states_licences_of_weights_and_test_picture(self, package: Path) -> None:
        with zipfile.ZipFile(package) as file:
            words = file.read("README.md").decode()
            assert "LicenseRef-FIB25" in words
            assert "not stated" in words
            assert b"Takemura" in file.read("LICENCE-of-test-input.md")

    def test_needs_a_zip(self, unet: Weights, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"ends in \.zip, got"):
            export_weights(unet, tmp_path / "x.tar")

    def test_leaves_no_half_a_file(
        self, unet: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="no space"):
            export_weights(unet, tmp_path / "x.zip")
        assert not (tmp_path / "x.zip").exists()


class Trap:
    """Leaves a trace if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


class TestPackages:
    """BioImage.IO packages that something is wrong with."""

    @pytest.fixture
    def refused(self, tmp_path: Path) -> Any:
        def check(path: Path, match: str, **options: Any) -> None:
            output = tmp_path / "out.safetensors"
            with pytest.raises(ValueError, match=match):
                import_weights(path, output, **options)
            assert not output.exists()

        return check

    @pytest.mark.parametrize("length", [4, 100, 5000])
    def test_truncated(
        self, package: Path, tmp_path: Path, refused: Any, length: int
    ) -> None:
        path = tmp_path / "cut.zip"
        path.write_bytes(package.read_bytes()[:length])
        refused(path, r"cut\.zip is a damaged zip file")

    def test_damaged_inside(self, package: Path, tmp_path: Path, refused: Any) -> None:
        data = bytearray(package.read_bytes())
        with zipfile.ZipFile(package) as file:
            start = file.getinfo("weights.pt").header_offset
        data[start + 200 : start + 260] = bytes(60)
        path = tmp_path / "bad.zip"
        path.write_bytes(data)
        refused(path, r"weights\.pt in bad\.zip is damaged, enc")

    def test_of_another_checksum(
        self, package: Path, unet: Weights, tmp_path: Path, refused: Any
    ) -> None:
        buffer = io.BytesIO()
        torch.save({k: v + 1 for k, v in unet.network().state_dict().items()}, buffer)
        changed = {"weights.pt": buffer.getvalue()}
        path = rewritten(package, tmp_path / "x.zip", **changed)
        refused(path, r"weights\.pt has another checksum than its manifest says")

    @pytest.mark.parametrize(
        "source",
        ["../weights.pt", "/etc/passwd", "a/../../b", "file:///w.pt", "..\\w.pt"],
    )
    def test_that_lead_out_of_themselves(
        self, package: Path, tmp_path: Path, refused: Any, source: str
    ) -> None:
        said = manifest_of(package)
        said["weights"]["pytorch_state_dict"]["source"] = source
        path = with_manifest(package, tmp_path / "x.zip", said)
        refused(path, "lie outside of the package")

    def test_with_members_that_lead_out_unpack_nothing(
        self, package: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        evil = {"../evil.txt": b"gone", "/tmp/evil-emseg.txt": b"gone"}
        path = rewritten(package, folder / "x.zip", **evil)
        import_weights(path, folder / "x.safetensors")
        assert {p.name for p in folder.iterdir()} == {"x.zip", "x.safetensors"}
        assert not (tmp_path / "evil.txt").exists()
        assert not Path("/tmp/evil-emseg.txt").exists()

    def test_that_grow_without_end(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        path = tmp_path / "bomb.zip"
        zeros = bytes(30 * 2**20)
        with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w", 8) as new:
            new.writestr(MANIFEST, old.read(MANIFEST))
            new.writestr("weights.pt", zeros)
        refused(path, r"would grow \d+ times: it is not unpacked")

    def test_with_a_manifest_that_is_too_large(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        noise = np.random.default_rng(0).integers(33, 126, 2**20 + 10, np.uint8)
        path = rewritten(package, tmp_path / "x.zip", **{MANIFEST: noise.tobytes()})
        refused(path, r"rdf\.yaml in x\.zip is larger than 0.25 MiB")

    @pytest.mark.parametrize("text", [b"a: [", b"- 1\n- 2", b"\xff\xfe\x00", b"%x"])
    def test_with_a_manifest_that_is_none(
        self, package: Path, tmp_path: Path, refused: Any, text: bytes
    ) -> None:
        path = rewritten(package, tmp_path / "x.zip", **{MANIFEST: text})
        refused(path, "manifest")

    @pytest.mark.parametrize("name", ["a", "&a [*a]"])
    def test_whose_references_grow_without_end(
        self, package: Path, tmp_path: Path, refused: Any, name: str
    ) -> None:
        levels = [f"a{n + 1}: &b{n + 1} [{f'*b{n}, ' * 9}]" for n in range(30)]
        text = "\n".join(["a0: &b0 [x]", *levels, f"name: {name}"]).encode()
        path = rewritten(package, tmp_path / "x.zip", **{MANIFEST: text})
        refused(path, "it stands for more than 50,000 values")

    def test_with_python_objects_in_the_manifest(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        trace = tmp_path / "trace"
        text = f"!!python/object/apply:pathlib.Path.touch [{str(trace)!r}]".encode()
        path = rewritten(package, tmp_path / "x.zip", **{MANIFEST: text})
        refused(path, "its manifest can't be read")
        assert not trace.exists()

    def test_without_state_dict(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        said = manifest_of(package)
        del said["weights"]["pytorch_state_dict"]
        path = with_manifest(package, tmp_path / "x.zip", said)
        refused(
            path, "no pytorch_state_dict and no onnx, only torchscript, which is never"
        )

    def test_that_lack_what_they_name(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        path = rewritten(package, tmp_path / "x.zip", **{"weights.pt": None})
        refused(path, r"x\.zip lacks weights\.pt")

    def test_whose_state_dict_is_a_trap(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        trace, buffer = tmp_path / "trace", io.BytesIO()
        torch.save({"head.weight": Trap(trace)}, buffer)
        said = manifest_of(package)
        entry = said["weights"]["pytorch_state_dict"]
        entry["sha256"] = sha256(buffer.getvalue()).hexdigest()
        path = with_manifest(package, tmp_path / "a.zip", said)
        path = rewritten(path, tmp_path / "x.zip", **{"weights.pt": buffer.getvalue()})
        refused(path, r"weights\.pt in x\.zip is damaged, or holds more than numbers")
        assert not trace.exists()

    def test_with_a_card_that_makes_no_sense(
        self, package: Path, tmp_path: Path, refused: Any
    ) -> None:
        said = manifest_of(package)
        said["config"]["emseg"]["card"] = {"name": 3}
        path = with_manifest(package, tmp_path / "x.zip", said)
        refused(path, "its card is damaged")

    def test_of_others_need_an_architecture(
        self, package: Path, unet: Weights, tmp_path: Path, refused: Any
    ) -> None:
        said = manifest_of(package)
        del said["config"]
        path = with_manifest(package, tmp_path / "x.zip", said)
        refused(path, r"x\.zip doesn't say what network it is for")
        again = import_weights(
            path,
            tmp_path / "mine.safetensors",
            architecture="unet",
            config={"base": "2", "levels": "2"},
        )
        assert torch.equal(outputs(again), outputs(unet))
        assert again.card.name == "mine"
        assert "tiny-unet" in again.card.notes[0]


class TestStateDicts:
    """Files that hold nothing but numbers."""

    CHOICE: ClassVar[dict[str, Any]] = {
        "architecture": "unet",
        "config": {"base": 2, "levels": 2},
    }

    def save(self, path: Path, contents: object) -> Path:
        torch.save(contents, path)
        return path

    @pytest.mark.parametrize("wrapped", [None, "state_dict", "model_state_dict"])
    @pytest.mark.parametrize("start", ["", "module."])
    def test_of_any_trainer(
        self, unet: Weights, tmp_path: Path, wrapped: str | None, start: str
    ) -> None:
        state = {start + k: v for k, v in unet.network().state_dict().items()}
        contents = state if wrapped is None else {wrapped: state, "epoch": 3}
        path = self.save(tmp_path / "x.pth", contents)
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))
        assert load_weights(again.path).card.architecture == "unet"

    @pytest.mark.parametrize("kind", ["pt", "safetensors"])
    @pytest.mark.parametrize(
        "start", ["model.", "_orig_mod.", "module._orig_mod.", "net.model.unet."]
    )
    def test_with_any_prefix_that_all_names_have(
        self, unet: Weights, tmp_path: Path, start: str, kind: str
    ) -> None:
        state = {start + k: v for k, v in unet.network().state_dict().items()}
        path = tmp_path / f"x.{kind}"
        if kind == "pt":
            self.save(path, {"epoch": 3, "whatever": state, "optimiser": {"lr": 1}})
        else:
            save_file({key: value.contiguous() for key, value in state.items()}, path)
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))

    def test_of_networks_that_were_compiled_in_part(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        state = {
            k.replace("encoder.", "encoder._orig_mod."): v
            for k, v in unet.network().state_dict().items()
        }
        path = self.save(tmp_path / "x.pt", state)
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))

    def test_beside_what_belongs_to_a_trainer(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        state = {f"model.{k}": v for k, v in unet.network().state_dict().items()}
        state["loss.class_weights"] = torch.ones(2)
        path = self.save(tmp_path / "x.ckpt", {"state_dict": state})
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))

    def test_without_counters_of_batch_normalisations(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        state = unet.network().state_dict()
        some = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
        assert len(some) < len(state)
        path = self.save(tmp_path / "x.pt", some)
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))

    def test_of_two_networks_are_ambiguous(self, unet: Weights, tmp_path: Path) -> None:
        state = unet.network().state_dict()
        both = {f"{who}.{k}": v for k, v in state.items() for who in ("ema", "student")}
        path = self.save(tmp_path / "x.pt", both)
        said = r"2 such networks, under ema\., student\."
        with pytest.raises(ValueError, match=said):
            import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)

    def test_of_something_else_show_their_names(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        state = {f"layer{n}.weight": torch.zeros(n, 2) for n in range(1, 7)}
        path = self.save(tmp_path / "x.pt", state)
        said = r"file has none; 6 names in the file: layer1.weight \(1, 2\), .*, …"
        with pytest.raises(ValueError, match=said):
            import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)

    def test_in_safetensors(self, unet: Weights, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        state = unet.network().state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, path)
        with pytest.raises(ValueError, match="what network it is for"):
            import_weights(path, tmp_path / "y.safetensors")
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert torch.equal(outputs(again), outputs(unet))

    def test_keep_numbers_that_need_full_precision(self, tmp_path: Path) -> None:
        network = build("unet", {"base": 2, "levels": 2}).eval()
        network.load_state_dict(
            {
                k: v * 1.0001 if v.is_floating_point() else v
                for k, v in network.state_dict().items()
            }
        )
        path = self.save(tmp_path / "x.pt", network.state_dict())
        again = import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        for key, value in network.state_dict().items():
            assert torch.equal(again.network().state_dict()[key], value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"head.weight": None}, r"head\.weight must be \(2, 2, 1, 1\), .* none"),
            ({"head.weight": torch.zeros(3, 2, 1, 1)}, r"head\.weight .* \(3, 2, 1, 1"),
            ({"tail": torch.zeros(1)}, "no parameter tail"),
            ({"head.bias": torch.tensor([1.0, float("nan")])}, r"head\.bias holds"),
            ({"head.bias": 3}, r"'head\.bias' is no tensor"),
            ({7: torch.zeros(1)}, "7 is no tensor"),
        ],
    )
    def test_that_do_not_fit_name_the_key(
        self, unet: Weights, tmp_path: Path, change: dict[Any, Any], said: str
    ) -> None:
        state = {**unet.network().state_dict(), **change}
        contents = {key: value for key, value in state.items() if value is not None}
        path = self.save(tmp_path / "x.pt", contents)
        with pytest.raises(ValueError, match=said):
            import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert not (tmp_path / "y.safetensors").exists()

    def test_of_another_network_name_the_first_key(
        self, unet: Weights, tmp_path: Path
    ) -> None:
        path = self.save(tmp_path / "x.pt", unet.network().state_dict())
        with pytest.raises(ValueError, match=r"doesn't fit .*: encoder\.\S+ must be"):
            import_weights(path, tmp_path / "y.safetensors", architecture="unetpp")

    @pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.zip", "x.safetensors"])
    def test_that_are_traps_are_not_run(self, tmp_path: Path, name: str) -> None:
        trace, path = tmp_path / "trace", tmp_path / name
        for contents in ({"a": Trap(trace)}, Trap(trace)):
            torch.save(contents, path)
            with pytest.raises(ValueError, match="holds more than numbers"):
                import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
            path.write_bytes(pickle.dumps(contents))
            with pytest.raises(ValueError, match=name):
                import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)
        assert not trace.exists()

    @pytest.mark.parametrize(
        "contents",
        [b"", b"text", bytes(500), b"PK\x03\x04", b"\x08" + bytes(7) + b"{}"],
    )
    def test_that_are_none(self, tmp_path: Path, contents: bytes) -> None:
        path = tmp_path / "x.pt"
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"x\.pt"):
            import_weights(path, tmp_path / "y.safetensors", **self.CHOICE)

    def test_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no file at"):
            import_weights(tmp_path / "x.pt", tmp_path / "y.safetensors")


def test_weights_of_ours_come_as_they_are(unet: Weights, tmp_path: Path) -> None:
    again = import_weights(unet.path, tmp_path / "y.safetensors")
    assert json.loads(again.card.model_dump_json()) == json.loads(
        unet.card.model_dump_json()
    )
    assert torch.equal(outputs(again), outputs(unet))


class Server:
    """Answers from memory, on this machine alone."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                answer = answers.get(self.path)
                if isinstance(answer, str):
                    self.send_response(302)
                    self.send_header("Location", answer)
                    self.end_headers()
                elif answer is None:
                    self.send_error(404)
                else:
                    length, data = answer
                    self.send_response(200)
                    self.send_header("Content-Length", str(length))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class TestWeightsAtAnAddress:
    @pytest.fixture
    def weights_file(self, package: Path) -> bytes:
        with zipfile.ZipFile(package) as file:
            return file.read("weights.pt")

    @pytest.fixture
    def server(
        self, weights_file: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Server]:
        monkeypatch.setattr(importing, "SCHEMES", ("http",))
        n = len(weights_file)
        made = Server(
            {
                "/w.pt": (n, weights_file),
                "/other.pt": (5, b"other"),
                "/cut.pt": (n, weights_file[:100]),
                "/huge.pt": (2**40, b""),
                "/on": "/w.pt",
                "/away": "ftp://127.0.0.1/w.pt",
            }
        )
        yield made
        made.close()

    def package_at(
        self, package: Path, to: Path, url: str, sha256: str | None = None
    ) -> Path:
        said = manifest_of(package)
        entry = said["weights"]["pytorch_state_dict"]
        entry["source"] = url
        if sha256 is not None:
            entry["sha256"] = sha256
        return rewritten(
            package, to, **{MANIFEST: yaml.safe_dump(said).encode(), "weights.pt": None}
        )

    def test_nothing_is_fetched_unless_asked(
        self, package: Path, tmp_path: Path, server: Server
    ) -> None:
        url = f"{server.address}/w.pt"
        path = self.package_at(package, tmp_path / "x.zip", url)
        with pytest.raises(RemoteWeightsError, match="nothing was downloaded") as error:
            import_weights(path, tmp_path / "x.safetensors")
        assert error.value.url == url
        assert server.asked == []
        assert not (tmp_path / "x.safetensors").exists()

    @pytest.mark.parametrize("place", ["/w.pt", "/on"])
    def test_with_consent(
        self, package: Path, unet: Weights, tmp_path: Path, server: Server, place: str
    ) -> None:
        path = self.package_at(package, tmp_path / "x.zip", f"{server.address}{place}")
        records: list[Any] = []
        work = iter_import_weights(path, tmp_path / "x.safetensors", download=True)
        found = drain(work, records.append)
        assert torch.equal(outputs(found), outputs(unet))
        last = records[-1]
        assert (last.step, last.done) == ("downloading", last.total)

    @pytest.mark.parametrize(
        ("place", "error", "words"),
        [
            ("/other.pt", ValueError, r"\(5 bytes\) has another checksum"),
            ("/cut.pt", (ValueError, OSError), "checksum|can't be had"),
            ("/huge.pt", ValueError, "1,048,576 MiB, which is too much"),
            ("/none.pt", OSError, "can't be had from .*Not Found"),
            ("/away", OSError, "leads on to ftp://"),
        ],
    )
    def test_what_is_wrong_there_is_not_taken(
        self,
        package: Path,
        tmp_path: Path,
        server: Server,
        place: str,
        error: Any,
        words: str,
    ) -> None:
        path = self.package_at(package, tmp_path / "x.zip", f"{server.address}{place}")
        with pytest.raises(error, match=words):
            import_weights(path, tmp_path / "x.safetensors", download=True)
        assert not (tmp_path / "x.safetensors").exists()

    @pytest.mark.parametrize(
        ("url", "digits", "words"),
        [
            ("http://x.org/w.pt", None, "lie outside of the package"),
            ("ftp://x.org/w.pt", None, "lie outside of the package"),
            ("https://known.org@x.org/w.pt", None, "names a user"),
            ("https://x.org/w.pt", "", "without a checksum"),
            ("https://x.org/w.pt", "12", "without a checksum"),
            ("https://x.org/\x1b[2J", None, "lie outside of the package"),
            ("https:///w.pt", None, "lie outside of the package"),
        ],
    )
    def test_addresses_that_are_not_trusted(
        self, package: Path, tmp_path: Path, url: str, digits: str | None, words: str
    ) -> None:
        path = self.package_at(package, tmp_path / "x.zip", url, digits)
        with pytest.raises(ValueError, match=words):
            import_weights(path, tmp_path / "x.safetensors", download=True)

    def test_the_network_is_asked_for_before(
        self, package: Path, tmp_path: Path, server: Server
    ) -> None:
        said = manifest_of(package)
        said.pop("config")
        said["weights"]["pytorch_state_dict"]["source"] = f"{server.address}/w.pt"
        path = with_manifest(package, tmp_path / "x.zip", said)
        with pytest.raises(AmbiguousNetworkError):
            import_weights(path, tmp_path / "x.safetensors", download=True)
        assert server.asked == []


class TestOnnx:
    """Weights are taken from named tensors; the graph is never run."""

    ARCH: ClassVar[dict[str, Any]] = {
        "architecture": "unet",
        "config": SHAPES["unet"][1],
    }

    def test_of_one_of_our_networks(self, unet: Weights, tmp_path: Path) -> None:
        path = tmp_path / "u.onnx"
        path.write_bytes(onnx_of(unet.network().state_dict()))
        found = import_weights(path, tmp_path / "u.safetensors", **self.ARCH)
        assert torch.equal(outputs(found), outputs(unet))
        with pytest.raises(AmbiguousNetworkError):
            import_weights(path, tmp_path / "u2.safetensors")

    def test_in_a_package(self, package: Path, unet: Weights, tmp_path: Path) -> None:
        data = onnx_of(unet.network().state_dict())
        said = manifest_of(package)
        said["weights"] = {
            "onnx": {"source": "w.onnx", "sha256": sha256(data).hexdigest()}
        }
        manifest = yaml.safe_dump(said).encode()
        path = rewritten(package, tmp_path / "x.zip", **{MANIFEST: manifest})
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("w.onnx", data)
        found = import_weights(path, tmp_path / "u.safetensors")
        assert torch.equal(outputs(found), outputs(unet))
        assert found.card == unet.card

    def test_of_another_network(self, tmp_path: Path) -> None:
        path = tmp_path / "u.onnx"
        path.write_bytes(onnx_of({"onnx::Conv_12": torch.zeros(2, 3)}))
        with pytest.raises(ValueError, match=r"1 names in the file: onnx::Conv_12"):
            import_weights(path, tmp_path / "u.safetensors", **self.ARCH)


def seeing(folder: Path, architecture: str) -> Weights:
    """A small network that sees three sections and gives affinities."""
    shape = {"unet": {"levels": 2}, "unetpp": {"depth": 1}}[architecture]
    config = {"base": 2, "context": 3, "affinities": [[-1, 0, 0]], **shape}
    torch.manual_seed(0)
    state = build(architecture, config).state_dict()
    card = Card(
        name="seeing",
        summary="Sees three.",
        architecture=architecture,
        config=config,
        scores={"v_rand": 0.9, "volume_vi": 1.4, "volume_adapted_rand_error": 0.1},
    )
    return save_weights(folder / "seeing.safetensors", state, card, half=False)


class TestNetworksWithContext:
    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        made = seeing(tmp_path, "unetpp")
        path = export_weights(made, tmp_path / "x.zip")
        again = import_weights(path, tmp_path / "again.safetensors")
        assert again.card == made.card
        with zipfile.ZipFile(path) as file:
            manifest = yaml.safe_load(file.read(MANIFEST))
            picture = np.load(io.BytesIO(file.read("test-input.npy")))
        given, found = manifest["inputs"][0], manifest["outputs"][0]
        assert given["axes"][1]["channel_names"] == ["z-1", "em", "z+1"]
        assert found["axes"][1]["channel_names"] == [*made.card.classes]
        assert picture.shape[1] == 3

    def test_leave_affinities_out_beside_a_softmax(self, tmp_path: Path) -> None:
        made = seeing(tmp_path, "unet")
        path = export_weights(made, tmp_path / "x.zip")
        again = import_weights(path, tmp_path / "again.safetensors")
        assert again.card.classes == ("membrane", "inside")
        assert (again.card.context, again.card.affinities) == (3, ())
        assert again.card.scores == {"v_rand": 0.9}
        assert again.card.summary == f"Sees three. {LEFT_OUT}"
        with zipfile.ZipFile(path) as file:
            said = yaml.safe_load(file.read(MANIFEST))
            assert "volume_vi" not in file.read("README.md").decode()
        assert said["description"] == again.card.summary
        assert Card(**said["config"]["emseg"]["card"]) == again.card
        window = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(
                again.network()(window), made.network()(window)[:, :2]
            )
