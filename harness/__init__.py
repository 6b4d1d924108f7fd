"""The engine: provisions the documented stack, waits for it, explains it, removes it. Imports no pytest."""
