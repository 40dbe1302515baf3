"""Every model family, small and with random weights, from checkpoint to streamed answer.

`python -m models.check` builds the rows of its table one by one: a descriptor in `families/` says
what a row compiles and how it is measured.
"""
