"""Numbers and tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def size(count_bytes: int) -> str:
    """Bytes in binary units, three digits: 1536 is "1.50 KiB"."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    value, unit = count_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1000:
            value, unit = value / 1024, larger
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> str:
    """Left-aligned columns; the last one is not padded."""
    columns = max(len(row) for row in rows)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
