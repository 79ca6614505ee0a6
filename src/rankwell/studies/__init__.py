"""Repeatable experiments behind the claims."""
