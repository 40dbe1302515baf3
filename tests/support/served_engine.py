"""A device service over the arithmetic engine that a gateway's test can lose and bring back."""

from __future__ import annotations

import functools
from typing import Any

from device_svc.service import DeviceService
from tests.support.fake_core import FakeEngine
from tests.support.fake_device import fake_config


class ServedEngine:
    """On the test's loop; always on the same port. `engine` are FakeEngine's arguments."""

    def __init__(self, name: str, **engine: Any) -> None:
        self.name = name
        self.address = ""
        self._engine = engine
        self._service: DeviceService | None = None

    async def start(self) -> None:
        open_engine = functools.partial(FakeEngine, **self._engine)
        self._service = DeviceService(fake_config(name=self.name), open_engine)
        port = await self._service.start(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"

    async def kill(self) -> None:
        if self._service is not None:
            service, self._service = self._service, None
            await service.drain(0)
