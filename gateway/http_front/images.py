"""Images in the parts of a message: data URLs, and other addresses where the operator allows it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from gateway.http_front.openai_types import ChatMessageBody, TextPart
from tpuserve.errors import InvalidArgument, PermissionDenied, Unavailable
from tpuserve.images.limits import MAX_IMAGE_BYTES

IMAGE_PARTS: Final = ("image_url", "input_image")

_DATA_URL: Final = re.compile(r"data:(image/[a-z0-9.+-]+)?(;[a-z0-9=._-]+)*;base64,", re.IGNORECASE)
_DETAILS: Final = (None, "auto", "low", "high")
# What an error text shows of an address.
_SHOWN: Final = 64
_FETCH_TIMEOUT_S: Final = 10.0
_CHUNK_BYTES: Final = 1 << 16


def image_url(part: TextPart, where: str) -> str:
    """The address that a part names. Raises InvalidArgument."""
    said: Any = part.image_url
    detail = part.detail
    if isinstance(said, dict):
        for name in set(said) - {"url", "detail"}:
            raise InvalidArgument(f"{where}.image_url has unknown field `{name}`", field=where)
        detail = said.get("detail")
        said = said.get("url")
    if not isinstance(said, str) or not said:
        raise InvalidArgument(f"{where} has no image_url.url", field=where)
    if detail not in _DETAILS:
        raise InvalidArgument(
            f"{where}.image_url.detail is {detail!r}; it must be auto, low or high", field=where
        )
    return said


def from_data_url(url: str, where: str) -> bytes:
    """The encoded image of a `data:image/…;base64,` URL. Raises InvalidArgument."""
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidArgument(
            f"{where} is no data URL of an image in base64: {url[:_SHOWN]!r}", field=where
        )
    encoded = url[head.end() :]
    if len(encoded) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise InvalidArgument(
            f"{where}: the image has more than {MAX_IMAGE_BYTES} bytes", field=where
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidArgument(f"{where}: the image is not base64: {error}", field=where) from None


class ImageFetcher:
    """Fetches images from the hosts that the operator named; from no other.

    Redirects are not followed: they may lead to hosts that were not named. With no hosts every
    address but a data URL is refused.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    async def inline(self, messages: list[ChatMessageBody]) -> dict[str, bytes]:
        """The images of all addresses in the messages that are no data URLs.

        Raises PermissionDenied for a host that was not named, Unavailable when it does not answer
        well, InvalidArgument when what it sends is too large.
        """
        wanted: dict[str, str] = {}
        for number, message in enumerate(messages):
            parts = message.content if isinstance(message.content, list) else []
            for index, part in enumerate(parts):
                where = f"messages[{number}].content[{index}]"
                if part.type in IMAGE_PARTS:
                    url = image_url(part, where)
                    if url[:5].lower() != "data:":
                        wanted.setdefault(url, where)
        if not wanted:
            return {}
        for url, where in wanted.items():
            self._check(url, where)
        timeout = aiohttp.ClientTimeout(total=_FETCH_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            return {url: await _fetch(session, url, where) for url, where in wanted.items()}

    def _check(self, url: str, where: str) -> None:
        try:
            address = urlsplit(url)
            host = (address.hostname or "").lower()
            netloc = address.netloc.rpartition("@")[2].lower()
        except ValueError:
            raise InvalidArgument(f"{where} is no address: {url[:_SHOWN]!r}", field=where) from None
        if address.scheme not in ("http", "https") or not host:
            raise InvalidArgument(
                f"{where} is neither a data URL nor http(s): {url[:_SHOWN]!r}", field=where
            )
        if not {host, netloc} & self._hosts:
            raise PermissionDenied(
                f"{where}: images are not fetched from {host}; send a data URL", field=where
            )


async def _fetch(session: aiohttp.ClientSession, url: str, where: str) -> bytes:
    data = bytearray()
    try:
        async with session.get(url, allow_redirects=False) as reply:
            if reply.status != 200:
                raise Unavailable(f"{where}: the image's server answered {reply.status}")
            async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > MAX_IMAGE_BYTES:
                    raise InvalidArgument(
                        f"{where}: the image has more than {MAX_IMAGE_BYTES} bytes", field=where
                    )
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise Unavailable(f"{where}: the image's server cannot be reached") from error
    return bytes(data)
