"""The embedded GitLab: the part of GitLab that this chain touches, reached only by GitLab's own protocols.

It is one ASGI application in a process of its own (``python -m embedded_gitlab --help``): API v4,
the runner protocol, git over HTTP, ``/jwt/auth`` and a read-only web page. No groups, merge requests,
artifacts or cache: what isn't there is refused by name, never ignored.
"""
