"""Assistants' answers: their text read for reasoning and calls, while it is generated.

A model writes its calls and its reasoning into its text, in the format of its family. The readers
here take that text in pieces of any size; what they give does not depend on the sizes.
"""
