"""Request logs in, batches out."""
