"""Answers over HTTP: `rankwell serve`, of the extra `serve`."""
