"""Benchmarks: `python -m bench <name>`; nothing here runs in a test."""
