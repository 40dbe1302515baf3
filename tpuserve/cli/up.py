"""`tpuserve up --model DIR`: serve a model directory on this machine."""

from __future__ import annotations

import argparse
import asyncio

from tpuserve.cli import serving
from tpuserve.cli.serving import Endpoints

add_arguments = serving.add_arguments


def run(args: argparse.Namespace) -> int:
    return serving.serve(args, _announce)


async def _announce(endpoints: Endpoints, stop: asyncio.Event) -> None:
    print(f"{endpoints.model} is ready")
    print(f"  gRPC   {endpoints.grpc}")
    print(f"  HTTP   {endpoints.http}/v1  (OpenAI API; metrics at {endpoints.http}/metrics)")
    for device in endpoints.devices if endpoints.allows_dumps else ():
        print(f"  dumps  tpuserve dump PROMPT -o FILE.npz --device {device}")
    print("  stop   Ctrl-C", flush=True)
