"""Runs that are killed at many points, and what they leave."""
