"""The operator stand-in's controller. Standard library only: it gets 0.15 CPU, and imports cost.

Not here: ServiceMonitors; defaults and refusals of the admission webhooks (none are documented); differences
between the three versions other than their names: all run Runner 16.0.1.
"""
