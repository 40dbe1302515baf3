"""`tpuserve chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Final

from tpuserve import errors
from tpuserve.cli import answering, connection
from tpuserve.client import Client, Message, Options

_FORGET: Final = frozenset({"clear", "new"})
_LEAVE: Final = frozenset({"exit", "quit", "q"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    connection.add_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="system message")


def run(args: argparse.Namespace) -> int:
    # Arrow keys and history in input(), where Python has it.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    with connection.connect(args.address) as client:
        print("clear: forget the conversation · exit: leave · Ctrl-C: stop an answer")
        opening = () if args.system is None else (Message("system", args.system),)
        _Conversation(client, connection.options(args), opening).run()
    return 0


class _Conversation:
    """What was said; a question whose answer fails or is stopped is not part of it."""

    def __init__(self, client: Client, options: Options, opening: tuple[Message, ...]) -> None:
        self._client = client
        self._options = options
        self._opening = opening
        self._messages = opening

    def run(self) -> None:
        while (line := _ask()) is not None:
            if line in _LEAVE:
                return
            if line in _FORGET:
                self._messages = self._opening
                print("(new conversation)")
            elif line:
                self._answer(line)

    def _answer(self, question: str) -> None:
        messages = (*self._messages, Message("user", question))
        # Dropping the generator, which an exception does, cancels the request.
        chunks = self._client.chat(messages, self._options)
        try:
            with contextlib.closing(chunks):
                answer = answering.show(chunks)
        except KeyboardInterrupt:
            print("(stopped)", flush=True)
            return
        except errors.TpuserveError as error:
            print(f"({error.message})", file=sys.stderr, flush=True)
            return
        self._messages = (*messages, Message("assistant", answer.text))
        print(
            f"\n\nFTL: {answer.ftl_s:.3f} s\nTPS: {answer.tokens_per_s:.3f} token/s\n", flush=True
        )


def _ask() -> str | None:
    """A line without surrounding blanks; empty after Ctrl-C, None at the end of the input."""
    try:
        return input("> ").strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None
