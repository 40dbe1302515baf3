"""`tpuserve swap --device ADDR DIR`: change the model of a running device."""

from __future__ import annotations

import argparse
from pathlib import Path

import grpc

from tpuserve import errors
from tpuserve.cli import text
from tpuserve.cli.errors import CommandError
from tpuserve.rpc import status
from tpuserve.v1 import device_pb2, device_pb2_grpc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="DIR", help="model directory, below a --swap-root of the device")
    add("--device", required=True, metavar="ADDR", help="device service: host:port or unix:/path")
    add("--sha256", default="", metavar="HEX", help="what the bmodel's SHA-256 must be")
    add(
        "--preempt",
        action="store_true",
        help="end running requests, for their gateway to resume; default: finish them first",
    )
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    # A directory of this machine, if it is one: the device may run elsewhere.
    here = Path(args.model)
    request = device_pb2.SwapModelRequest(
        model_directory=str(here.resolve()) if here.is_dir() else args.model,
        bmodel_sha256=args.sha256,
        preempt=args.preempt,
    )
    try:
        reply = _swap(args.device, request, args.timeout)
    except errors.TpuserveError as error:
        raise CommandError(error.message) from error
    shared = text.size(reply.shared_weight_bytes)
    kept = f"; {reply.kept_kv_tokens} tokens of KV kept" if reply.kept_kv_tokens else ""
    print(f"{reply.previous.name} -> {reply.model.name}  SHA-256 {reply.model.bmodel_sha256}")
    print(f"  {shared} of {text.size(reply.weight_bytes)} weights are those of the old model{kept}")
    order = "after unloading the old one" if reply.unloaded_first else "beside the old one"
    print(
        f"  loaded {order}; {reply.total_ms / 1e3:.2f} s in all, "
        f"{reply.pause_ms / 1e3:.2f} s without a model"
    )
    return 0


def _swap(
    address: str, request: device_pb2.SwapModelRequest, timeout_s: float
) -> device_pb2.SwapModelReply:
    """Raises TpuserveError."""
    with grpc.insecure_channel(address) as channel:
        stub = device_pb2_grpc.DeviceStub(channel)
        try:
            return stub.SwapModel(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, f"device {address}") from error
