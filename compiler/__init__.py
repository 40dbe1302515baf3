"""Compiles a Hugging Face checkpoint into a model directory, with the vendor's compiler in its own
environment."""
