"""GPT-2's way to write bytes as printable characters, used by byte-level BPE vocabularies.

Source: `bytes_to_unicode` of OpenAI's GPT-2 encoder. Printable Latin-1 bytes stand for themselves;
the others, in order, are the characters from U+0100 on.
"""

from __future__ import annotations


def character_bytes() -> dict[str, int]:
    """The byte that each of the 256 characters stands for."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (value for value in range(256) if value not in printable)
    table = {chr(value): value for value in printable}
    table.update((chr(0x100 + number), value) for number, value in enumerate(others))
    return table


def token_bytes(token: str, characters: dict[str, int]) -> bytes:
    """A token's bytes; a token with other characters (an added one) is its own text."""
    try:
        return bytes([characters[character] for character in token])
    except KeyError:
        return token.encode("utf-8")
