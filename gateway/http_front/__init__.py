"""The HTTP API: OpenAI routes, the old demo route, health and metrics."""
