"""Layers split over several chips, each of which computes a share of every one.

This package runs inside the compiler's environment, beside the vendor's converter.
"""
