"""How the services listen, report health, map errors, drain and log."""
