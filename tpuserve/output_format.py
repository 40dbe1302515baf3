"""What a completion must look like, free of any wire format."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FormatKind(str, enum.Enum):
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    GRAMMAR = "grammar"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """As `tpuserve.v1.OutputFormat`.

    text: the schema as JSON text, the regular expression or the grammar; empty for the other kinds.
    choices: the texts of CHOICE.
    """

    kind: FormatKind
    text: str = ""
    choices: tuple[str, ...] = ()
