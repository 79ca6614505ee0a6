"""A job marketplace whose truth is known."""
