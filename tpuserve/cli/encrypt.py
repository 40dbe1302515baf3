"""`tpuserve encrypt DIR -o OUT --key-file FILE`, and `tpuserve encrypt --new-key FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tpuserve.bmodel import BmodelFileError
from tpuserve.cli import text
from tpuserve.cli.errors import CommandError
from tpuserve.encryption import EncryptionError, encrypt_directory, read_key, write_new_key
from tpuserve.model_dir import ModelDirError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="DIR", help="model directory; only read"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="directory to make")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key to encrypt with")
    parser.add_argument("--new-key", type=Path, metavar="FILE", help="write a new random key")


def run(args: argparse.Namespace) -> int:
    try:
        if args.new_key is not None:
            return _new_key(args)
        if args.model is None or args.output is None or args.key_file is None:
            raise CommandError(
                "name the model directory, -o OUT and --key-file FILE; or --new-key FILE"
            )
        made = encrypt_directory(args.model, args.output, read_key(args.key_file))
    except (EncryptionError, ModelDirError, BmodelFileError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    for path, public in made.bmodels:
        size = text.size((args.output / path.name).stat().st_size)
        print(f"{args.output / path.name}  {size}, of the bmodel with SHA-256 {public.sha256}")
    for path in made.left_out:
        print(f"left out: {path}")
    return 0


def _new_key(args: argparse.Namespace) -> int:
    if args.model is not None or args.output is not None or args.key_file is not None:
        raise CommandError("--new-key stands alone: make the key first, then encrypt with it")
    write_new_key(args.new_key)
    print(f"{args.new_key}  a new key; without it nobody can load what it encrypts")
    return 0
