"""Between `tpuserve.v1.Vocabulary` and the plain value."""

from __future__ import annotations

from itertools import accumulate, pairwise

from tpuserve.errors import InvalidArgument
from tpuserve.v1 import output_pb2
from tpuserve.vocabulary import Vocabulary


def to_wire(value: Vocabulary) -> output_pb2.Vocabulary:
    return output_pb2.Vocabulary(
        sha256=value.sha256(),
        token_bytes=b"".join(value.tokens),
        lengths=[len(token) for token in value.tokens],
        special_ids=value.special_ids,
        eos_ids=value.eos_ids,
    )


def from_wire(message: output_pb2.Vocabulary) -> Vocabulary:
    """Raises InvalidArgument when the message contradicts itself."""
    size_bytes, count = len(message.token_bytes), len(message.lengths)
    if sum(message.lengths) != size_bytes:
        raise InvalidArgument(
            f"lengths add up to {sum(message.lengths)} bytes, token_bytes has {size_bytes}",
            field="vocabulary.lengths",
        )
    for name in ("special_ids", "eos_ids"):
        ids = getattr(message, name)
        if ids and max(ids) >= count:
            raise InvalidArgument(
                f"{name} holds {max(ids)}, the vocabulary has {count} ids",
                field=f"vocabulary.{name}",
            )
    data = message.token_bytes
    borders = accumulate(message.lengths, initial=0)
    value = Vocabulary(
        tokens=[data[begin:end] for begin, end in pairwise(borders)],
        special_ids=tuple(message.special_ids),
        eos_ids=tuple(message.eos_ids),
    )
    if value.sha256() != message.sha256:
        raise InvalidArgument(
            f"sha256 is {message.sha256 or '(none)'}, that of the tokens is {value.sha256()}",
            field="vocabulary.sha256",
        )
    return value
