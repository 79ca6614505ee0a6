"""Readings in, a correction file out: bounded, expiring, and checked."""
