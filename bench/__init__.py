"""Measures a running tpuserve and prints a report; see `python -m bench --help`."""
