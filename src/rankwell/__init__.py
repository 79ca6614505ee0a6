"""Ranking models whose probabilities you can bid on."""

__version__ = "0.1.0"
