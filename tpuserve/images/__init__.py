"""Images of prompts: reading what clients send, and how a model wants them cut into tiles."""
