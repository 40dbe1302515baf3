"""Embedding and head nets for several rows (run inside the compiler's environment).

embedding_*      in input_ids [a, b] int32              out states [a, b, hidden]
lm_head          in hidden_states [rows, hidden]        out logits [rows, vocab] float32
greedy_head      in m_logits [rows, vocab] float32      out token_id [rows, 1] int32
"""

from typing import Any

from llm.LlmInfo import LlmList  # type: ignore[import-not-found]
from mlir.dialects import top  # type: ignore[import-not-found]
from mlir.ir import StringAttr  # type: ignore[import-not-found]
from transform.MLIRImporter import MLIRImporter  # type: ignore[import-not-found]

HEAD_WEIGHTS = "lm_head_rows_top_weights.npz"
EMBEDDING_WEIGHTS = "embedding_top_weights.npz"


def embedding_net(converter: Any, name: str, tokens: list[int]) -> Any:
    """Table lookup for ids of the shape `tokens`."""
    shape = [*tokens, converter.hidden_size]
    mlir = _importer(converter, name, [tokens], [shape], ["INT32"], f"../{EMBEDDING_WEIGHTS}")
    table_name = converter.model_info.weights[LlmList.EMBEDING] + ".weight"
    ids = mlir.create_input_op(converter.get_loc("input_ids", mlir), 0)
    table = mlir.create_weight_op(table_name, [converter.embedding_rows, converter.hidden_size])
    out = mlir.get_tensor_type(shape)
    states = top.GatherOp(out, table, ids, axis=0, **_at(converter, mlir, name)).output
    mlir.create_return_op([states])
    return mlir


def logits_net(converter: Any, rows: int) -> Any:
    """States times the head's weight, which is stored [hidden, vocab].

    The converter's own form, weight [vocab, hidden] times one transposed state, costs a fifth more
    on the chip with 16 rows.
    """
    shape = [rows, converter.vocab_size]
    inputs = [[rows, converter.hidden_size]]
    mlir = _importer(converter, "lm_head", inputs, [shape], ["F32"], f"../{HEAD_WEIGHTS}")
    states = mlir.create_input_op(converter.get_loc("hidden_states", mlir), 0)
    weight = mlir.create_weight_op(
        head_weight_name(converter), [converter.hidden_size, converter.vocab_size]
    )
    out = mlir.get_tensor_type(shape)
    place = _at(converter, mlir, "logits")
    logits = top.MatMulOp(out, states, weight, mlir.none_op, do_relu=False, **place).output
    mlir.create_return_op([logits])
    return mlir


def greedy_net(converter: Any, rows: int) -> Any:
    """The best token of each row; of equal ones the first.

    Arg rather than the converter's TopK: that makes the net dynamic, and several of them in one net
    make it of several parts.
    """
    shape = [rows, 1]
    inputs = [[rows, converter.vocab_size]]
    mlir = _importer(converter, "greedy_head", inputs, [shape], ["F32"], None)
    logits = mlir.create_input_op(converter.get_loc("m_logits", mlir), 0)
    best = top.ArgOp(
        *mlir.get_tensor_type([shape, shape]),
        logits,
        axis=1,
        keepdims=True,
        mode=StringAttr.get("ArgMax"),
        select_last_index=False,
        **_at(converter, mlir, ["token_id", "token_value"]),
    )
    mlir.create_return_op([best.indices])
    return mlir


def head_weight_name(converter: Any) -> str:
    return str(converter.model_info.weights[LlmList.LMHEAD]) + ".weight"


def _importer(
    converter: Any,
    name: str,
    inputs: list[list[int]],
    outputs: list[list[int]],
    types: list[str],
    weights: str | None,
) -> Any:
    return MLIRImporter(inputs, outputs, name, converter.platform, types, weight_file=weights)


def _at(converter: Any, mlir: Any, name: str | list[str]) -> dict[str, Any]:
    return {"loc": converter.get_loc(name, mlir), "ip": mlir.insert_point}
