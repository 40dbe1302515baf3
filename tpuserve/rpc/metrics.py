"""The /metrics endpoint of the services that speak gRPC only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def metrics_endpoint(registry: CollectorRegistry, address: str | None) -> Iterator[int]:
    """Serve `registry` at http://ADDRESS/metrics while the block runs; yields the port.

    `address` is `host:port`; None serves nothing and yields 0. Raises OSError naming an address
    that is in use.
    """
    if address is None:
        yield 0
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise OSError(f"cannot serve metrics on {address}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
