"""The `tpuserve` command."""
