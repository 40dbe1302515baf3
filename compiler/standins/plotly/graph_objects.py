"""Named by the compiler at start for its plots, which are not drawn when a model is converted."""
