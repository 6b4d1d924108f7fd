"""A pretend internet in namespaces: the names, redirects, tokens, limits and refusals of the real one."""
