"""A bundle into answers."""
