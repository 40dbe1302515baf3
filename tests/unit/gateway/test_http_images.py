"""Addresses of images in OpenAI messages."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from gateway.http_front.convert import messages
from gateway.http_front.images import ImageFetcher
from gateway.http_front.openai_types import ChatMessageBody
from tpuserve.errors import InvalidArgument, PermissionDenied, Unavailable
from tpuserve.images.limits import MAX_IMAGE_BYTES

PIXELS = b"\x89PNG and so on"


def data_url(data: bytes = PIXELS, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def bodies(*parts: object) -> list[ChatMessageBody]:
    return msgspec.convert([{"role": "user", "content": list(parts)}], list[ChatMessageBody])


def part(url: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def test_parts_keep_their_order() -> None:
    said = bodies(
        {"type": "text", "text": "a"},
        part(data_url()),
        {"type": "input_image", "image_url": data_url(b"2", "image/webp"), "detail": "low"},
        {"type": "text", "text": "b"},
    )
    assert messages(said, {})[0].parts == ("a", PIXELS, b"2", "b")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (part("data:image/png,abc"), "is no data URL of an image in base64"),
        (part("data:text/html;base64,AAAA"), "is no data URL of an image in base64"),
        (part("data:image/png;base64,A*=="), "the image is not base64"),
        (part(data_url(b"x" * (MAX_IMAGE_BYTES + 3))), "has more than 8388608 bytes"),
        (part(None), "has no image_url.url"),
        ({"type": "image_url"}, "has no image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:", "size": 1}}, "unknown field `size`"),
        (
            {"type": "image_url", "image_url": {"url": data_url(), "detail": "huge"}},
            "detail is 'huge'; it must be auto, low or high",
        ),
    ],
)
def test_what_is_wrong_is_named(said: object, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^messages\[0\]\.content\[0\]") as refused:
        messages(bodies(said), {})
    assert reason in refused.value.message


@pytest.fixture
async def host() -> AsyncIterator[str]:
    async def image(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == "large":
            return web.Response(body=b"x" * (MAX_IMAGE_BYTES + 1))
        if name == "moved":
            raise web.HTTPFound("http://127.0.0.1:1/")
        return web.Response(body=PIXELS)

    app = web.Application()
    app.add_routes([web.get("/{name}", image)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_named_hosts_only(host: str) -> None:
    url = f"http://{host}/cat"
    said = bodies(part(url), part(data_url(b"other")))
    fetched = await ImageFetcher([host]).inline(said)
    assert fetched == {url: PIXELS}
    assert messages(said, fetched)[0].parts == (PIXELS, b"other")
    with pytest.raises(PermissionDenied, match=r"not fetched from 127\.0\.0\.1; send a data URL"):
        await ImageFetcher([]).inline(said)
    with pytest.raises(PermissionDenied):
        await ImageFetcher(["example.org", "127.0.0.1:1"]).inline(said)


async def test_fetching_is_bounded_and_stays_on_the_host(host: str) -> None:
    fetcher = ImageFetcher(["127.0.0.1"])
    with pytest.raises(InvalidArgument, match="more than 8388608 bytes"):
        await fetcher.inline(bodies(part(f"http://{host}/large")))
    with pytest.raises(Unavailable, match="answered 302"):
        await fetcher.inline(bodies(part(f"http://{host}/moved")))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await fetcher.inline(bodies(part("http://127.0.0.1:1/")))
    with pytest.raises(InvalidArgument, match=r"neither a data URL nor http\(s\)"):
        await fetcher.inline(bodies(part("file:///etc/passwd")))
    with pytest.raises(InvalidArgument, match="is no address"):
        await fetcher.inline(bodies(part("http://[::1")))
