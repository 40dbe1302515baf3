"""The images of a conversation: checked, measured and found again in its ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizer_svc.conversation import Conversation, Picture
from tpuserve.errors import FeatureMissing, InvalidArgument
from tpuserve.images.limits import check_total
from tpuserve.images.reading import ImageError, read_image
from tpuserve.images.rules import ImageRules
from tpuserve.images.tiling import tiling


@dataclass(frozen=True, slots=True)
class PlacedPicture:
    """Stands at `position` of the ids; pixels upright; cut into `tiles`."""

    position: int
    width: int
    height: int
    tiles: int


def check_pictures(conversation: Conversation, rules: ImageRules | None) -> None:
    """What needs no decoding. Raises FeatureMissing for a model that reads text only, and
    InvalidArgument naming sizes and limits."""
    pictures = list(_pictures(conversation))
    if pictures and rules is None:
        raise FeatureMissing(f"{pictures[0].field} is an image, but this model reads text only")
    check_total(sum(len(picture.data) for picture in pictures))


def place_pictures(
    conversation: Conversation, ids: Sequence[int], rules: ImageRules | None
) -> list[PlacedPicture]:
    """Each picture, in reading order, with the token that stands for it. Decodes them all.

    Raises InvalidArgument naming the part that is no image or the template that lost one.
    """
    if rules is None:
        return []
    sizes = [_measure(picture) for picture in _pictures(conversation)]
    positions = [position for position, token in enumerate(ids) if token == rules.token_id]
    if len(positions) != len(sizes):
        raise InvalidArgument(
            f"the conversation has {len(sizes)} images and its chat template makes "
            f"{len(positions)} of them",
            field="messages",
        )
    return [
        PlacedPicture(
            position,
            width,
            height,
            tiling(width, height, tile_size=rules.tile_size, max_tiles=rules.max_tiles).tiles,
        )
        for position, (width, height) in zip(positions, sizes, strict=True)
    ]


def _pictures(conversation: Conversation) -> Iterator[Picture]:
    for message in conversation.messages:
        for piece in message.pieces:
            if isinstance(piece, Picture):
                yield piece


def _measure(picture: Picture) -> tuple[int, int]:
    try:
        return read_image(picture.data).size
    except ImageError as error:
        raise InvalidArgument(f"{picture.field}: the image {error}", field=picture.field) from error
