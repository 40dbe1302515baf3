"""The service's Prometheus families."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tpuserve.errors import TpuserveError

_BUCKETS_S: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)


@dataclass(slots=True)
class Outcome:
    """How a call ends."""

    code: grpc.StatusCode = grpc.StatusCode.OK


class Metrics:
    """All families live in `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tpuserve_tokenizer_requests",
            "Finished calls by gRPC status code; CANCELLED for a stream left with open requests.",
            ["method", "code"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "tpuserve_tokenizer_request_duration_seconds",
            "Duration of unary calls.",
            ["method"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        tokens = Counter(
            "tpuserve_tokenizer_tokens",
            "Tokens that were encoded, decoded or detokenized.",
            ["operation"],
            registry=self.registry,
        )
        self.encoded_tokens = tokens.labels("encode")
        self.decoded_tokens = tokens.labels("decode")
        self.detokenized_tokens = tokens.labels("detokenize")
        self.refused_items = Counter(
            "tpuserve_tokenizer_refused_items",
            "Items of Detokenize streams that were refused, by error.",
            ["error"],
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "tpuserve_tokenizer_open_requests",
            "Requests that are open on Detokenize streams.",
            registry=self.registry,
        )

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        """Times a unary call and counts it with the status that its outcome becomes."""
        start_s = time.perf_counter()
        with self.counted(method):
            try:
                yield
            finally:
                self._duration.labels(method).observe(time.perf_counter() - start_s)

    @contextmanager
    def counted(self, method: str) -> Iterator[Outcome]:
        """Counts a call with the status that its outcome becomes, or that the block sets."""
        outcome = Outcome()
        try:
            yield outcome
        except TpuserveError as error:
            outcome.code = error.grpc_code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome.code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            outcome.code = grpc.StatusCode.INTERNAL
            raise
        finally:
            self._requests.labels(method, outcome.code.name).inc()
