"""`python -m bench.instant_device`: a device service whose engine computes nothing.

Everything is the real device service but the engine, which is replaced at the seam to the C++
extension: a completion repeats the middle of its prompt, and a decode step takes `--step-us`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_svc.engine_api import (
    ChipReading,
    ModelShape,
    Rows,
    Sampler,
    Sampling,
    SavedRows,
    TokenMask,
)
from device_svc.images import Image
from device_svc.process import Endpoints, run_device
from device_svc.service import DeviceConfig
from device_svc.servicer import Identity
from tpuserve import model_dir
from tpuserve.rpc import logging

_CONTEXT_TOKENS: Final = 4096
_VOCAB_SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class Drawn:
    token: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)
class Repeater:
    """Draws the ids of `text` again and again."""

    text: tuple[int, ...]
    drawn: int = 0

    def accept(self, token: int) -> None:
        self.drawn += 1

    def next(self) -> Drawn:
        token = self.text[self.drawn % len(self.text)]
        self.drawn += 1
        return Drawn(token)


class InstantEngine:
    """Implements `device_svc.engine_api.Engine`; one decode step serves every slot.

    It keeps nothing per slot, so there is nothing to copy, save or free.
    """

    def __init__(self, *, slots: int, step_s: float) -> None:
        self.shape = ModelShape(
            context_length=_CONTEXT_TOKENS,
            max_prompt_length=_CONTEXT_TOKENS - 1,
            prefill_chunk_tokens=_CONTEXT_TOKENS - 1,
            vocab_size=_VOCAB_SIZE,
            argmax=False,
            features=("logits",),
        )
        self.runtime_version = ""
        self.slots = slots
        self.decode_rows = slots
        self.decode_variants = ()
        self.launches = 0
        self.busy_s: Sequence[float] = ()
        self.kv_row_bytes = 0
        self._step_s = step_s

    def prefill(
        self, slot: int, ids: NDArray[np.int32], position: int, *, last: bool
    ) -> Rows | None:
        return np.zeros((1, 1), np.float32) if last else None

    def decode(self, slots: Sequence[int], ids: NDArray[np.int32]) -> Rows:
        self.launches += 1
        if self._step_s > 0:
            time.sleep(self._step_s)
        return np.zeros((len(slots), 1), np.float32)

    def sampler(self, sampling: Sampling, prompt_ids: NDArray[np.int32]) -> Sampler:
        # Away from the chat template's own tokens, which are at both ends.
        third = len(prompt_ids) // 3
        return Repeater(tuple(prompt_ids[third : third + max(1, third)].tolist()))

    def sample(
        self, rows: Rows, samplers: Sequence[Sampler], masks: Sequence[TokenMask | None] = ()
    ) -> Sequence[Drawn]:
        return [each.next() for each in samplers if isinstance(each, Repeater)]

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        pass

    def save(self, slot: int) -> SavedRows:
        return SavedRows(0, np.zeros(0, np.uint8))

    def restore(self, slot: int, saved: SavedRows) -> None:
        pass

    @property
    def states(self) -> None:
        """It computes nothing."""

    def set_images(self, slot: int, images: Sequence[Image]) -> None:
        pass

    def free(self, slot: int) -> None:
        pass

    def wipe(self, slot: int) -> None:
        pass

    def chip_reading(self, chip: int) -> ChipReading:
        return ChipReading(chip)

    def close(self) -> None:
        pass


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.instant_device", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDR")
    parser.add_argument("--model", required=True, help="directory of the model that it poses as")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--step-us", type=int, default=0)
    parser.add_argument("--metrics-listen", metavar="HOST:PORT")
    arguments = parser.parse_args(argv)
    logging.configure("device", "info")
    model = model_dir.load(arguments.model)
    identity = Identity(
        name="instant",
        model_name=model.name,
        bmodel_sha256=model_dir.bmodel_sha256(model),
        chips=(0,),
        runtime_kind="custom",
    )

    def open_engine() -> InstantEngine:
        return InstantEngine(slots=arguments.slots, step_s=arguments.step_us / 1e6)

    return run_device(
        lambda: (DeviceConfig(identity=identity), open_engine),
        Endpoints(arguments.listen, arguments.metrics_listen),
    )


if __name__ == "__main__":
    sys.exit(main())
