"""Pure numbers about predictions."""
