"""The operator stand-in's controller. Standard library only: it gets 0.15 CPU, and imports cost."""
