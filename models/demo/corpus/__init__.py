"""The text that the demo model learns from, all of it written for this project."""
