"""`python -m device_svc.probe DIRECTORY`: what a vendor runtime says of itself and its chips.

Prints one JSON object as the last line of stdout: `version`, and `chips` with one reading each
(bytes, celsius, watts, hertz; null where the driver does not tell). Exit status 1 and a line
`error: …` on stderr when the runtime does not open. A process of its own, since the vendor's
libraries may end it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from device_svc.engine import probe
from device_svc.engine_api import EngineStartError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m device_svc.probe", description=__doc__)
    parser.add_argument("directory", type=Path, help="holds libbmrt and libbmlib")
    parser.add_argument("--emulator", action="store_true", help="the libraries are the emulator's")
    parser.add_argument("--chips", help="chip ids, 0,1; default: all that the runtime counts")
    args = parser.parse_args(argv)
    chips = None if args.chips is None else [int(chip) for chip in args.chips.split(",")]
    try:
        version, readings = probe(args.directory, emulator=args.emulator, chips=chips)
    except EngineStartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = {"version": version, "chips": [dataclasses.asdict(item) for item in readings]}
    # The libraries write to stdout without a newline at times.
    print(f"\n{json.dumps(report)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
