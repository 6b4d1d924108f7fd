"""Acceptance of what somebody installed: found, read and judged, never changed."""
