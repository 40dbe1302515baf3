"""Predicts speed and memory of a model on the chip from its config.json, without weights or a chip.

One layer and a slice of the head are compiled with random weights; the compiler's cycle profiles of
those nets, times the number of layers, give the step.
"""
