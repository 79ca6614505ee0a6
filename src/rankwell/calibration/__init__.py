"""Logits in, probabilities out."""
