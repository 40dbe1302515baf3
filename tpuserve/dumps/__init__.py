"""Dumps of what layers compute: fetched from a device, kept as .npz, compared."""

from tpuserve.dumps.compare import Difference, Report, compare
from tpuserve.dumps.fetch import DumpRequest, fetch
from tpuserve.dumps.file import DumpFileError, load, save

__all__ = [
    "Difference",
    "DumpFileError",
    "DumpRequest",
    "Report",
    "compare",
    "fetch",
    "load",
    "save",
]
