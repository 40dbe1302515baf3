"""Encoding with libraries that know no control tokens: ordinary text and ids in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tokenizer_svc.control import ControlTexts
from tokenizer_svc.tokenizer import Part


def encode_between(
    parts: Sequence[Part],
    *,
    control: ControlTexts,
    control_ids: Mapping[str, int],
    encode_ordinary: Callable[[str], list[int]],
) -> list[int]:
    """Control texts become their ids; in a literal part they are plain text.

    Ordinary text runs on across parts, so that tokens may span their borders.
    """
    ids: list[int] = []
    ordinary: list[str] = []
    for part in parts:
        pieces = [part.text] if part.literal else control.split(part.text)
        for position, piece in enumerate(pieces):
            if position % 2:
                ids += encode_ordinary("".join(ordinary))
                ids.append(control_ids[piece])
                ordinary.clear()
            else:
                ordinary.append(piece)
    return ids + encode_ordinary("".join(ordinary))
