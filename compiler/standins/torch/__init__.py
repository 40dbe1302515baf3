"""Just enough of torch for the converter to read and round weights; arrays live in numpy.

The converter imports torch for its dtypes, for `tensor.float().numpy()` on weights it has read and
for
writing an embedding table to disk. Anything else fails by name, loudly.
"""

import numpy as np


class dtype:  # noqa: N801 (as in torch)
    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return "torch." + self._name


float32 = dtype("float32")
float16 = dtype("float16")
bfloat16 = dtype("bfloat16")
float8_e4m3fn = dtype("float8_e4m3fn")
float8_e5m2 = dtype("float8_e5m2")
int64 = dtype("int64")
int32 = dtype("int32")
int8 = dtype("int8")
uint8 = dtype("uint8")
bool = dtype("bool")  # noqa: A001 (as in torch)


class _Storage:
    def __init__(self, array):
        self._array = array

    def data_ptr(self):
        return self._array.ctypes.data


class Tensor:
    """A numpy array with a torch dtype; bfloat16 is held as its 16 bits (uint16)."""

    def __init__(self, array, dtype):
        self._array = array
        self.dtype = dtype
        self.shape = array.shape

    def numpy(self):
        if self.dtype is bfloat16:
            raise TypeError("numpy has no bfloat16: call float() first")
        return np.array(self._array)

    def float(self):
        if self.dtype is bfloat16:
            return Tensor((self._array.astype(np.uint32) << 16).view(np.float32), float32)
        return Tensor(self._array.astype(np.float32), float32)

    def numel(self):
        return self._array.size

    def to(self, dtype):
        values = self.float()._array
        if dtype is float32:
            return Tensor(values, float32)
        if dtype is float16:
            return Tensor(values.astype(np.float16), float16)
        if dtype is bfloat16:
            bits = np.ascontiguousarray(values).view(np.uint32)
            # round to nearest, ties to even
            return Tensor(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), bfloat16)
        raise TypeError(f"cannot convert to {dtype!r}")

    def untyped_storage(self):
        return _Storage(self._array)


def from_numpy(array):
    return Tensor(
        np.ascontiguousarray(array), {"float32": float32, "float16": float16}[str(array.dtype)]
    )
