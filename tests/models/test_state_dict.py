"""Tensors by name from files of others, of which nothing is run."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from written_onnx import field, onnx_of

from napari_emseg.models.state_dict import read_onnx, read_state_dict


def saved(contents: object) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


class TestStateDicts:
    """What `torch.save` wrote, if that is numbers alone."""

    def test_of_two_networks_are_ambiguous(self) -> None:
        state = {"weight": torch.ones(2)}
        both = saved({"ema": state, "student": state})
        with pytest.raises(ValueError, match="several state dicts: ema, student"):
            read_state_dict(both, "x.pt")

    def test_are_found_in_checkpoints(self) -> None:
        contents = {"epoch": 3, "model": {"state_dict": {"weight": torch.ones(2)}}}
        assert list(read_state_dict(saved(contents), "x.pt")) == ["weight"]

    def test_that_grow_without_end(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", 8) as file:
            file.writestr("archive/data/0", bytes(30 * 2**20))
        with pytest.raises(ValueError, match="times: it is not unpacked"):
            read_state_dict(buffer.getvalue(), "x.pt")

    def test_that_pretend_to_be_huge_take_no_memory(self) -> None:
        state = {"head.weight": torch.zeros(1).expand(10**6, 10**6)}
        with pytest.raises(ValueError, match=r"says it has 1,000,000,000,000 values"):
            read_state_dict(saved(state), "x.pt")


class TestOnnx:
    """Named tensors are read; the graph is never run."""

    def test_numbers_in_other_files_are_not_read(self) -> None:
        external = field(13, field(1, b"location") + field(2, b"/etc/passwd"))
        data = onnx_of({"w": torch.zeros(2)}, w=external + field(14, 1))
        with pytest.raises(ValueError, match="keeps 'w' in another file"):
            read_onnx(data, "u.onnx")

    def test_sizes_that_are_not_there(self) -> None:
        tensor = field(1, 2**40) + field(2, 1) + field(8, b"w") + field(9, bytes(8))
        data = field(7, field(5, tensor))
        with pytest.raises(ValueError, match="'w' has no"):
            read_onnx(data, "u.onnx")

    @pytest.mark.parametrize(
        "data", [b"", b"\x00", b"\xff" * 40, b"\x3a\xff\xff\xff\x7f", b"PK", b"{}"]
    )
    def test_what_is_none(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"u\.onnx is no ONNX file"):
            read_onnx(data, "u.onnx")

    @given(data=st.data())
    def test_damaged_ones_are_refused_or_read(self, data: st.DataObject) -> None:
        whole = bytearray(onnx_of({"a": torch.ones(2, 3), "b": torch.zeros(1)}))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
        try:
            found = read_onnx(bytes(whole), "u.onnx")
        except ValueError:
            return
        assert sum(value.numel() for value in found.values()) <= 7
