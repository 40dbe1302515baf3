"""`tpuserve up DIR …`: serve model directories on this machine."""

from __future__ import annotations

import argparse
import asyncio

from tpuserve.cli import serving
from tpuserve.cli.serving import Endpoints

add_arguments = serving.add_arguments


def run(args: argparse.Namespace) -> int:
    return serving.serve(args, _announce)


async def _announce(endpoints: Endpoints, stop: asyncio.Event) -> None:
    print(f"{endpoints.model} {'is' if len(endpoints.models) == 1 else 'are'} ready")
    print(f"  gRPC   {endpoints.grpc}")
    print(f"  HTTP   {endpoints.http}/v1  (OpenAI API; metrics at {endpoints.http}/metrics)")
    for device in endpoints.devices:
        if endpoints.allows_dumps:
            print(f"  dumps  tpuserve dump PROMPT -o FILE.npz --device {device.address}")
        if endpoints.swaps:
            print(f"  swap   tpuserve swap DIR --device {device.address}")
    print("  stop   Ctrl-C", flush=True)
