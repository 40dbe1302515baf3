"""A gRPC server with health, reflection, typed errors and drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tpuserve.rpc.options import server_options
from tpuserve.rpc.status import StatusInterceptor

_log = logging.getLogger(__name__)


class AddressError(OSError):
    """The address cannot be listened on; the text names it."""


class Server:
    """Register servicers on `grpc_server`, then `start`; `drain` ends it.

    `services` are full service names (`tpuserve.v1.Device`): each is reported by the health service
    and by reflection. They are NOT_SERVING until `set_serving(True)`. The empty name answers for
    the process, for liveness probes: it is SERVING from `start` to `drain`, also while a service
    is not.
    """

    def __init__(
        self,
        services: Sequence[str],
        *,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._services = tuple(services)
        self._credentials = credentials
        self.grpc_server = grpc.aio.server(
            interceptors=[StatusInterceptor()], options=server_options()
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc_server)
        reflection.enable_server_reflection(
            [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc_server
        )

    async def start(self, address: str) -> int:
        """Listen on `host:port` or `unix:path`; returns the port (0 for a Unix socket).

        Raises AddressError when the address is in use or cannot be bound.
        """
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self.set_serving(False)
        try:
            if self._credentials is None:
                port = self.grpc_server.add_insecure_port(address)
            else:
                port = self.grpc_server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {address}: in use or not ours") from error
        await self.grpc_server.start()
        return 0 if address.startswith("unix:") else port

    async def set_serving(self, serving: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in self._services:
            await self._health.set(name, status)

    async def drain(self, grace_s: float) -> None:
        """Report NOT_SERVING, refuse new calls, let running ones finish within `grace_s`."""
        _log.info("draining", extra={"grace_s": grace_s})
        await self._health.enter_graceful_shutdown()
        await self.grpc_server.stop(grace_s)

    async def wait(self) -> None:
        await asyncio.shield(self.grpc_server.wait_for_termination())
