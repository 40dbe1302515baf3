"""Transport settings of every gRPC server and channel.

A client pings every 30 s, also without calls, so that a dead peer is noticed during a long prefill.
grpcio servers answer such pings with GOAWAY(too_many_pings) unless the minimum interval is lower
and strikes are off. The interval's key is `min_ping_interval_without_data_ms`; the similar
`min_recv_ping_interval_without_data_ms` does not exist in grpcio and is ignored silently.
"""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

Options = list[tuple[str, int]]


def server_options() -> Options:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A client host that vanishes without a word must not keep its slots.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # A second server on a port in use must fail, not share it.
        ("grpc.so_reuseport", 0),
    ]


def channel_options() -> Options:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Reconnect soon: peers are few and near.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
