"""Decode nets that serve several slots in one launch, built on the vendor's converter.

`ladder` is plain Python; `decode`, `heads`, `converter` and `driver` run inside the
compiler's own environment, because they import the vendor's modules.
"""
