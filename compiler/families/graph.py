"""A net under construction, in fewer words than the vendor's bindings need (runs in the compiler's
environment)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlir.dialects import top  # type: ignore[import-not-found]
from mlir.ir import StringAttr  # type: ignore[import-not-found]
from transform.MLIRImporter import MLIRImporter  # type: ignore[import-not-found]

# A value of the graph; the vendor's bindings carry no types.
Value = Any


@dataclass(frozen=True, slots=True)
class Input:
    """dtype: as the vendor spells it."""

    name: str
    shape: list[int]
    dtype: str = "F32"


class Graph:
    """`weights`: path of the npz with the weights, as seen from the net's directory."""

    def __init__(
        self,
        converter: Any,
        name: str,
        *,
        inputs: Sequence[Input],
        outputs: Sequence[list[int]],
        weights: str,
    ) -> None:
        self.converter = converter
        self.mlir = MLIRImporter(
            [given.shape for given in inputs],
            list(outputs),
            name,
            converter.platform,
            [given.dtype for given in inputs],
            weight_file=weights,
        )
        self.inputs = {
            given.name: self.mlir.create_input_op(self._location(given.name), index)
            for index, given in enumerate(inputs)
        }

    def finish(self, *results: Value) -> Any:
        """The module; the converter's `save_mlir_module` writes it."""
        self.mlir.create_return_op(list(results))
        return self.mlir

    def weight(self, name: str, shape: list[int]) -> Value:
        return self.mlir.create_weight_op(name, shape)

    def reshape(self, x: Value, shape: list[int], name: str) -> Value:
        return top.ReshapeOp(self._type(shape), x, shape=shape, **self._at(name)).output

    def permute(self, x: Value, order: list[int], name: str) -> Value:
        out = self._type([shape_of(x)[axis] for axis in order])
        return top.PermuteOp(out, x, order=order, **self._at(name)).output

    def slice(self, x: Value, axis: int, start: int, size: int, name: str) -> Value:
        """The whole when that is what is asked for."""
        shape, offset = shape_of(x), [0] * len(shape_of(x))
        if shape[axis] == size:
            return x
        shape[axis], offset[axis] = size, start
        none = self.mlir.none_op
        return top.SliceOp(
            self._type(shape),
            x,
            none,
            none,
            none,
            offset=offset,
            steps=[1] * len(shape),
            ends=[begin + count for begin, count in zip(offset, shape, strict=True)],
            axes=[],
            **self._at(name),
        ).output

    def corner(self, x: Value, name: str) -> Value:
        """The first entry, [1, 1, 1]."""
        for axis in range(len(shape_of(x))):
            x = self.slice(x, axis, 0, 1, f"{name}.{axis}")
        return self.reshape(x, [1, 1, 1], name)

    def concat(self, parts: Sequence[Value], axis: int, name: str) -> Value:
        if len(parts) == 1:
            return parts[0]
        shape = shape_of(parts[0])
        shape[axis] = sum(shape_of(part)[axis] for part in parts)
        return top.ConcatOp(self._type(shape), list(parts), axis=axis, **self._at(name)).output

    def tile(self, x: Value, counts: list[int], name: str) -> Value:
        shape = [size * count for size, count in zip(shape_of(x), counts, strict=True)]
        return top.TileOp(self._type(shape), x, tile=counts, **self._at(name)).output

    def pad(self, x: Value, axis: int, after: int, name: str) -> Value:
        """Zeros behind the last entry of the axis; the compiler takes four axes only."""
        if after == 0:
            return x
        shape = shape_of(x)
        paddings = [0] * (2 * len(shape))
        paddings[len(shape) + axis] = after
        shape[axis] += after
        mode = StringAttr.get("constant")
        out = self._type(shape)
        return top.PadOp(out, x, paddings=paddings, val=0, mode=mode, **self._at(name)).output

    def add(self, left: Value, right: Value, name: str) -> Value:
        """The left operand has the shape of the sum."""
        return top.AddOp(self._type(shape_of(left)), [left, right], **self._at(name)).output

    def multiply(self, left: Value, right: Value, name: str) -> Value:
        """The left operand has the shape of the product."""
        return top.MulOp(self._type(shape_of(left)), [left, right], **self._at(name)).output

    def scale(self, x: Value, factor: float, name: str) -> Value:
        out = self._type(shape_of(x))
        return top.MulConstOp(out, x, const_val=factor, **self._at(name)).output

    def one_minus(self, x: Value, name: str) -> Value:
        out = self._type(shape_of(x))
        place = self._at(name)
        return top.SubConstOp(out, x, const_val=1, is_reverse=True, **place).output

    def matmul(self, left: Value, right: Value, shape: list[int], name: str) -> Value:
        out = self._type(shape)
        none = self.mlir.none_op
        return top.MatMulOp(out, left, right, none, do_relu=False, **self._at(name)).output

    def gather(self, table: Value, ids: Value, name: str) -> Value:
        """Rows of a table [n, width] by ids of any shape: [*ids, width]."""
        out = self._type([*shape_of(ids), shape_of(table)[1]])
        return top.GatherOp(out, table, ids, axis=0, **self._at(name)).output

    def linear(self, path: str, x: Value, width: int) -> Value:
        shape = shape_of(x)
        widths = [shape[-1], width]
        return self.converter.linear(self.mlir, path, x, widths, [*shape[:-1], width])

    def activate(self, kind: str, x: Value, path: str) -> Value:
        return self.converter.activate(self.mlir, x, kind, path)

    def rms_norm(self, x: Value, path: str, name: str = "") -> Value:
        return self.converter.rms_norm(self.mlir, x, path, name)

    def layer_norm(self, x: Value, path: str, eps: float) -> Value:
        return self.converter.layer_norm(self.mlir, x, path, eps)

    def convolve(self, x: Value, weight: Value, side: int, name: str) -> Value:
        """A square kernel that moves by its own side."""
        count, _, height, width = shape_of(x)
        out = self._type([count, shape_of(weight)[0], height // side, width // side])
        return top.ConvOp(
            out,
            x,
            weight,
            self.mlir.none_op,
            kernel_shape=[side, side],
            strides=[side, side],
            pads=[0, 0, 0, 0],
            dilations=[1, 1],
            **self._at(name),
        ).output

    def attend(self, query: Value, keys: Value, values: Value, mask: Value, name: str) -> Value:
        """Query [1, m, heads, dim], keys and values [1, n, kv_heads, dim], mask [1, 1, m, n]:
        [1, m, heads × dim]."""
        _, rows, heads, dim = shape_of(query)
        _, columns, kv_heads, _ = shape_of(keys)
        return top.FAttentionOp(
            self._type([1, rows, heads * dim]),
            query,
            keys,
            values,
            mask,
            self.mlir.none_op,
            scale=dim**-0.5,
            batch=1,
            q_head=heads,
            kv_head=kv_heads,
            dim=dim,
            mq=rows,
            mk=columns,
            keep_dims=False,
            **self._at(name),
        ).output

    def _type(self, shape: list[int]) -> Any:
        return self.mlir.get_tensor_type(shape)

    def _location(self, name: str) -> Any:
        return self.converter.get_loc(name, self.mlir)

    def _at(self, name: str) -> dict[str, Any]:
        return {"loc": self._location(name), "ip": self.mlir.insert_point}


def shape_of(x: Value) -> list[int]:
    return [int(size) for size in x.type.shape]
