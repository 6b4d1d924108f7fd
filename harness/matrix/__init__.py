"""Versions by versions: a pytest run for each combination, side by side, and one page that compares them."""
