"""Reads safetensors files with numpy alone: the part of the package's interface that the converter
uses.

Format: u64 little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then
the
bytes (offsets count from the end of the header). Source: the safetensors format description.
"""

import json
import mmap

import numpy as np
import torch

_DTYPES = {
    "F32": (np.float32, torch.float32),
    "F16": (np.float16, torch.float16),
    "BF16": (np.uint16, torch.bfloat16),
    "I64": (np.int64, torch.int64),
    "I32": (np.int32, torch.int32),
    "I8": (np.int8, torch.int8),
    "U8": (np.uint8, torch.uint8),
    "BOOL": (np.bool_, torch.bool),
}


class safe_open:  # noqa: N801 (the name that the converter imports)
    """One open file; `get_tensor` copies a tensor out as a stand-in `torch.Tensor`."""

    def __init__(self, filename, framework="pt", device="cpu"):
        with open(filename, "rb") as f:
            self._bytes = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(self._bytes[:8], "little")
        self._data_start = 8 + header_bytes
        self._entries = json.loads(self._bytes[8 : self._data_start])
        self._entries.pop("__metadata__", None)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._bytes.close()

    def keys(self):
        return list(self._entries)

    def get_tensor(self, name):
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise TypeError(
                f"tensor {name} has dtype {entry['dtype']}, which is not supported here"
            )
        storage, dtype = _DTYPES[entry["dtype"]]
        start, end = (self._data_start + offset for offset in entry["data_offsets"])
        array = np.frombuffer(self._bytes[start:end], dtype=storage).reshape(entry["shape"])
        return torch.Tensor(array, dtype)
