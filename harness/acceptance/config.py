"""The config.toml in a Runner's pod, read so that what is secret in it never leaves the pod."""

from __future__ import annotations

CONFIG_TOML = "/home/gitlab-runner/.gitlab-runner/config.toml"
_SHOWN = 5
"""Characters of a secret that are read: what kind of token it is, and no more."""
_WITHOUT_SECRETS = (
    r"s/^([[:space:]]*[A-Za-z_-]*([Tt]oken|[Ss]ecret|[Kk]ey|[Pp]assword)[A-Za-z_-]*[[:space:]]*=[[:space:]]*"
    rf'"[^"]{{0,{_SHOWN}}})[^"]*"/\1"/; '
    r"s/^([[:space:]]*environment[[:space:]]*=).*/\1 []/"
)
READ_CONFIG = ("sed", "-E", _WITHOUT_SECRETS, CONFIG_TOML)
"""The command that prints it."""
