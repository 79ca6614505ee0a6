"""Logits and labels in, one number out."""
