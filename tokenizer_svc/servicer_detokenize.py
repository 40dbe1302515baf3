"""One message of a Detokenize stream: items in, results out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tokenizer_svc.answers import formats
from tokenizer_svc.metrics import Metrics
from tokenizer_svc.session import DetokenizeSession, ItemRefused, Opening, Refusal, Shown
from tpuserve.errors import InvalidArgument
from tpuserve.v1 import tokenizer_pb2 as pb

_ERRORS: Final[Mapping[Refusal, pb.DetokenizeError.ValueType]] = {
    Refusal.UNKNOWN_ID: pb.DETOKENIZE_ERROR_UNKNOWN_ID,
    Refusal.NOT_OPEN: pb.DETOKENIZE_ERROR_NOT_OPEN,
    Refusal.BAD_OPEN: pb.DETOKENIZE_ERROR_BAD_OPEN,
    Refusal.TOO_MANY: pb.DETOKENIZE_ERROR_TOO_MANY,
}


def answer(
    session: DetokenizeSession,
    items: Iterable[pb.DetokenizeItem],
    *,
    metrics: Metrics,
    max_ids: int,
) -> list[pb.DetokenizeResult]:
    """The results of a message's items, in order.

    Raises InvalidArgument, which ends the stream, when the message has more than `max_ids` ids: it
    would keep all other streams waiting.
    """
    results: list[pb.DetokenizeResult] = []
    tokens = 0
    for item in items:
        tokens += len(item.ids) + len(item.token_bytes_of)
        if tokens > max_ids:
            raise InvalidArgument(f"one message has more than {max_ids} ids", field="items")
        try:
            result = _answer_item(session, item)
        except ItemRefused as refused:
            metrics.refused_items.labels(refused.refusal.name.lower()).inc()
            result = pb.DetokenizeResult(
                request_id=item.request_id,
                error=_ERRORS[refused.refusal],
                finished=refused.forgotten,
            )
        if result is not None:
            results.append(result)
    metrics.detokenized_tokens.inc(tokens)
    return results


def _answer_item(session: DetokenizeSession, item: pb.DetokenizeItem) -> pb.DetokenizeResult | None:
    """None when the item asks for nothing back. Raises ItemRefused."""
    request_id = item.request_id
    if item.close:
        session.forget(request_id)
        return None
    if item.HasField("open"):
        session.open(
            request_id,
            Opening(
                stops=item.open.stop,
                prompt_tail=item.open.prompt_tail,
                keep_special_tokens=item.open.keep_special_tokens,
                min_tokens=item.open.min_tokens,
                answer=_answer_opening(item.open),
            ),
        )
    if not item.ids and not item.finish and not item.token_bytes_of:
        return None
    shown = session.push(request_id, item.ids)
    if item.finish and not shown.ended:
        shown = _joined(shown, session.finish(request_id))
    return pb.DetokenizeResult(
        request_id=request_id,
        text=shown.text,
        stop_index=shown.stop_index,
        consumed=shown.consumed,
        finished=item.finish or shown.ended,
        token_bytes=session.token_bytes(item.token_bytes_of) if item.token_bytes_of else None,
        calls=[
            pb.CallPiece(
                index=call.index,
                name=call.name,
                arguments_json=call.arguments,
                complete=call.complete,
            )
            for call in shown.calls
        ]
        if shown.calls
        else None,
        reasoning=shown.reasoning,
        answered=shown.answered,
    )


def _answer_opening(opening: pb.DetokenizeOpen) -> formats.Opening | None:
    if not opening.HasField("answer"):
        return None
    answer = opening.answer
    return formats.Opening(tuple(answer.functions), answer.single_call)


def _joined(shown: Shown, last: Shown) -> Shown:
    return Shown(
        shown.text + last.text,
        shown.consumed,
        last.stop_index,
        shown.reasoning + last.reasoning,
        shown.calls + last.calls,
        last.answered,
    )
