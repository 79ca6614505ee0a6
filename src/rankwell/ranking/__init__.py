"""Probabilities in, ranked list out."""
