"""ONNX files of named tensors, without a graph to run."""

from __future__ import annotations

import torch


def number(value: int) -> bytes:
    """A whole number as protobuf has it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(key: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return number(key << 3) + number(content)
    return number(key << 3 | 2) + number(len(content)) + content


def onnx_of(state: dict[str, torch.Tensor], **more: bytes) -> bytes:
    """Write an ONNX file of named tensors, without a graph to run."""
    kinds = {torch.float32: 1, torch.int64: 7, torch.float16: 10}
    tensors = b""
    for key, value in state.items():
        tensor = b"".join(field(1, n) for n in value.shape)
        tensor += field(2, kinds[value.dtype]) + field(8, key.encode())
        tensor += field(9, value.numpy().tobytes()) + more.get(key, b"")
        tensors += field(5, tensor)
    return field(1, 8) + field(2, b"test") + field(7, field(2, b"net") + tensors)
