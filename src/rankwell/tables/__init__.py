"""Rows for ids, however many."""
