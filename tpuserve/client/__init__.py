"""The Python client for the public API of a gateway."""

from tpuserve.client.aio import AsyncClient
from tpuserve.client.blocking import Client
from tpuserve.client.types import (
    Candidate,
    Chunk,
    Completion,
    Delta,
    Finished,
    FinishReason,
    Message,
    Model,
    Options,
    Priority,
    Reply,
    Started,
    Timings,
    TokenLogprob,
    Tokens,
    Usage,
)

__all__ = [
    "AsyncClient",
    "Candidate",
    "Chunk",
    "Client",
    "Completion",
    "Delta",
    "FinishReason",
    "Finished",
    "Message",
    "Model",
    "Options",
    "Priority",
    "Reply",
    "Started",
    "Timings",
    "TokenLogprob",
    "Tokens",
    "Usage",
]
