"""See outcomes red on a real node, each for its own reason: ``python -m selftests.faults``."""
