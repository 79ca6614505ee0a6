"""Command line and report: parse, call, print."""
