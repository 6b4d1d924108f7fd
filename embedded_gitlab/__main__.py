"""``python -m embedded_gitlab``: the embedded GitLab, in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from embedded_gitlab.app import CREDENTIALS_FILE, build, open_context
from embedded_gitlab.server import Server
from embedded_gitlab.settings import Settings

EXIT_ENVIRONMENT = 10
"""The host is at fault; what it lacks is on standard error, in a sentence."""

_EPILOG = f"""
The state directory holds everything: gitlab.sqlite3, repositories/, traces/, and
  {CREDENTIALS_FILE}   0600: {{"username": "root", "token": "glpat-…"}}, made at the first start
  registry-token.crt   what the registry must trust (auth.token.rootcertbundle); issuer gitlab-issuer,
                       service container_registry, realm <external url>/jwt/auth
Started again on the same directory it goes on where it was. When it listens it prints: listening on <url>
"""


_TIMES = (
    ("--long-poll", 50.0, "how long a runner's idle request is held, 0 = not at all"),
    ("--stuck-after", 3600.0, "a running job without a word from its runner fails"),
    ("--timeout-grace", 900.0, "how long after its timeout GitLab itself ends a job"),
    ("--online-for", 7200.0, "a runner is online for this long after a contact"),
    ("--client-timeout", 60.0, "a client that stops within a request or an answer is given up"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, serve, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    host, _, port = options.listen.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        parser.error(f"--listen {options.listen!r} is no ADDRESS:PORT")
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        listener = _bind(host.strip("[]"), int(port))
    except OSError as error:
        return _refuse(f"can't listen on {options.listen}", error)
    real_port = listener.getsockname()[1]
    url = (options.external_url or f"http://{host}:{real_port}").rstrip("/")
    settings = Settings(
        external_url=url,
        state_dir=Path(options.state),
        registry_host=options.registry,
        registry_ca=Path(options.registry_ca) if options.registry_ca else None,
        long_poll_s=options.long_poll,
        trace_limit_mib=options.trace_limit_mib,
        stuck_running_s=options.stuck_after,
        timeout_grace_s=options.timeout_grace,
        online_s=options.online_for,
        client_timeout_s=options.client_timeout,
    )
    try:
        context = open_context(settings)
    except (OSError, sqlite3.Error) as error:
        return _refuse(f"can't keep state in {options.state}", error)
    server = Server(
        build(context),
        settings.client_timeout_s,
        access_log=options.log_level == "debug",
        on_stop=context.queue.close,
    )
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(f"listening on {url}", flush=True)
    server.run(sockets=[listener])
    return 0


def _refuse(what: str, error: Exception) -> int:
    print(f"{what}: {getattr(error, 'strerror', None) or error}", file=sys.stderr, flush=True)
    return EXIT_ENVIRONMENT


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(512)
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embedded_gitlab",
        description="The part of GitLab that this chain touches, for users who have no GitLab to spare.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="port 0 takes a free one")
    parser.add_argument("--state", required=True, metavar="DIR", help="made if absent, mode 0700")
    parser.add_argument("--external-url", metavar="URL", help="default: http://ADDRESS:PORT")
    parser.add_argument("--registry", metavar="HOST[:PORT]", help="CI_REGISTRY; without it there is none")
    parser.add_argument("--registry-ca", metavar="FILE", help="CA of the registry; may appear later")
    parser.add_argument("--trace-limit-mib", type=int, default=100, metavar="MIB", help="default 100")
    for option, default, what in _TIMES:
        parser.add_argument(
            option, type=float, default=default, metavar="SECONDS", help=f"{what}; default {default:g}"
        )
    parser.add_argument("--until-stdin-closes", action="store_true",
                        help="end when standard input ends, as it does when the parent dies")  # fmt: skip
    parser.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
