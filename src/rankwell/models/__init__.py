"""Features in, logits out."""
