"""Model families whose checkpoints are rewritten into a form that the converter takes."""
