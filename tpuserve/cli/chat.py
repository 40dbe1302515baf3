"""`tpuserve chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Final

from tpuserve import errors
from tpuserve.cli import answering, connection, tools_file
from tpuserve.cli.errors import CommandError
from tpuserve.client import Client, Message, Options, ToolCall

_FORGET: Final = frozenset({"clear", "new"})
_LEAVE: Final = frozenset({"exit", "quit", "q"})
_SHOW: Final = "image "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    connection.add_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--image",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="an image that the first question is about; may be repeated",
    )
    parser.add_argument(
        "--tools",
        metavar="FILE",
        type=Path,
        help="functions that the model may call, a JSON list; you are asked for their results",
    )
    parser.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn thinking on or off, where the model can",
    )


def run(args: argparse.Namespace) -> int:
    # Arrow keys and history in input(), where Python has it.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    options = dataclasses.replace(
        connection.options(args),
        tools=() if args.tools is None else tools_file.read(args.tools),
        thinking=args.thinking,
    )
    images = tuple(_read(path) for path in args.image)
    with connection.connect(args.address) as client:
        print(
            "clear: forget the conversation · image FILE: show one with the next question · "
            "exit: leave · Ctrl-C: stop an answer"
        )
        opening = () if args.system is None else (Message("system", args.system),)
        _Conversation(client, options, opening, images).run()
    return 0


class _Conversation:
    """What was said; a question whose answer fails or is stopped is not part of it.

    `images` go with the next question.
    """

    def __init__(
        self,
        client: Client,
        options: Options,
        opening: tuple[Message, ...],
        images: tuple[bytes, ...],
    ) -> None:
        self._client = client
        self._options = options
        self._opening = opening
        self._messages = opening
        self._images = images

    def run(self) -> None:
        while (line := _ask()) is not None:
            if line in _LEAVE:
                return
            if line in _FORGET:
                self._messages = self._opening
                self._images = ()
                print("(new conversation)")
            elif line.startswith(_SHOW):
                self._show(Path(line.removeprefix(_SHOW).strip()))
            elif line:
                question = Message("user", line, images=self._images)
                self._images = ()
                messages: tuple[Message, ...] | None = (*self._messages, question)
                while messages is not None:
                    messages = self._answer(messages)

    def _show(self, path: Path) -> None:
        try:
            self._images = (*self._images, _read(path))
        except CommandError as error:
            print(f"({error})", file=sys.stderr, flush=True)

    def _answer(self, messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
        """Ask; the messages to go on with when the answer called functions."""
        # Dropping the generator, which an exception does, cancels the request.
        chunks = self._client.chat(messages, self._options)
        try:
            with contextlib.closing(chunks):
                answer = answering.show(chunks)
        except KeyboardInterrupt:
            print("(stopped)", flush=True)
            return None
        except errors.TpuserveError as error:
            print(f"({error.message})", file=sys.stderr, flush=True)
            return None
        said = Message("assistant", answer.text, answer.tool_calls, reasoning=answer.reasoning)
        print(
            f"\n\nFTL: {answer.ftl_s:.3f} s\nTPS: {answer.tokens_per_s:.3f} token/s\n", flush=True
        )
        if not answer.tool_calls:
            self._messages = (*messages, said)
            return None
        results = _results(answer.tool_calls)
        return None if results is None else (*messages, said, *results)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def _results(calls: tuple[ToolCall, ...]) -> tuple[Message, ...] | None:
    """What the user says that the functions return; None when one is left empty."""
    results: list[Message] = []
    for call in calls:
        result = _ask(f"result of {call.name}> ")
        if not result:
            return None
        results.append(Message("tool", result, tool_call_id=call.id))
    return tuple(results)


def _ask(prompt: str = "> ") -> str | None:
    """A line without surrounding blanks; empty after Ctrl-C, None at the end of the input."""
    try:
        return input(prompt).strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None
