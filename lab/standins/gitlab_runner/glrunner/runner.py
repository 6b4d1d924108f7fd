"""`gitlab-runner run`: polling for jobs, signals, reloading config.toml, metrics."""

import os
import queue
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from . import RELEASE, REVISION, VERSION, config, job, log
from .network import GitLab

_CHECK_INTERVAL_S = 3  # gitlab-runner's default for `check_interval = 0`
_RELOAD_CHECK_S = 3
_UNHEALTHY_LIMIT = 3
_UNHEALTHY_S = 3600
_SHUTDOWN_TIMEOUT_S = 30
_INTERRUPTED = "runner_interrupted" if RELEASE.reports_interruption else "runner_system_failure"
_SIGNALS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupt", signal.SIGQUIT: "quit"}


class Run:
    """The multi-runner: one polling thread for each `[[runners]]`, one thread for each job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config: dict[str, Any] = {"runners": [], "concurrent": 1}
        self._system = ""
        self._loaded_mtime: float | None = None
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._pollers: list[Poller] = []
        self._jobs: dict[int, tuple[job.Job, dict[str, Any], int, int]] = {}
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    def main(self, mode: Any) -> int:
        """Run until a signal ends it; the exit code is 0, as recorded for every signal."""
        self._log("INFO", f"Starting multi-runner from {self._path}...")
        mode()
        for number in (*_SIGNALS, signal.SIGHUP):
            signal.signal(number, lambda got, _frame: self._signals.put(got))
        self._load(first=True)
        self._announce()
        while True:
            try:
                number = self._signals.get(timeout=_RELOAD_CHECK_S)
            except queue.Empty:
                self._reload_if_changed()
                continue
            if number == signal.SIGHUP:
                self._load()
                continue
            self._log(
                "WARNING", "[runWait] received stop signal", {"stop-signal": _SIGNALS[signal.Signals(number)]}
            )
            return self._shut_down(number)

    def builds(self) -> int:
        """Jobs running now."""
        return len(self._jobs)

    @property
    def concurrent(self) -> int:
        """How many jobs may run at once."""
        return int(self._config.get("concurrent") or 1)

    @property
    def interval_s(self) -> float:
        """Seconds between two polls of one runner."""
        return float(self._config.get("check_interval") or 0) or _CHECK_INTERVAL_S

    def _log(self, level: str, message: str, fields: dict[str, object] | None = None) -> None:
        log.log(level, message, {"builds": self.builds()} | (fields or {}))

    def _load(self, *, first: bool = False) -> None:
        if self._path.exists():
            self._loaded_mtime = self._path.stat().st_mtime
            try:
                self._config = config.load(self._path)
            except ValueError as error:
                self._log("ERROR", f"Failed to load config {error}")
                return
        self._system = self._system or config.system_id(self._path)
        self._log("INFO", "Configuration loaded")
        if not first:
            self._start_polling()

    def _reload_if_changed(self) -> None:
        if not self._path.exists():
            self._log("ERROR", f"Failed to load config stat {self._path}: no such file or directory")
        elif self._path.stat().st_mtime != self._loaded_mtime:
            self._load()

    def _announce(self) -> None:
        address = self._config.get("listen_address")
        if address:
            serve_metrics(address, self)
            self._log("INFO", "Metrics server listening", {"address": address})
        else:
            self._log("INFO", "listen_address not defined, metrics & debug endpoints disabled")
        self._log("INFO", "[session_server].listen_address not defined, session endpoints disabled")
        self._log("INFO", "Initializing executor providers")
        self._start_polling()

    def _start_polling(self) -> None:
        runners = [r for r in self._config["runners"] if r.get("executor") == "kubernetes"]
        kept = [poller for poller in self._pollers if poller.runner in runners]
        for poller in self._pollers:
            if poller not in kept:
                poller.stop.set()
        new = [Poller(self, r, self._system) for r in runners if r not in [poller.runner for poller in kept]]
        self._pollers = kept + new
        for poller in new:
            poller.start()

    # Jobs

    def free_slot(self, runner: dict[str, Any]) -> bool:
        """Whether this runner may ask for a job."""
        with self._lock:
            own = sum(entry[1]["token"] == runner["token"] for entry in self._jobs.values())
            return len(self._jobs) < self.concurrent and not 0 < int(runner.get("limit") or 0) <= own

    def take(self, payload: dict[str, Any], runner: dict[str, Any], client: GitLab) -> None:
        """Start a job that GitLab handed out."""
        project = job.project_of(payload)
        with self._lock:
            mine = [entry for entry in self._jobs.values() if entry[1]["token"] == runner["token"]]
            taken = {entry[2] for entry in mine}
            of_project = {entry[3] for entry in mine if job.project_of(entry[0].payload) == project}
            slot, project_slot = _lowest(taken), _lowest(of_project)
            made = job.Job(payload, runner, client, self._system, (slot, project_slot), self.builds)
            self._jobs[id(made)] = (made, runner, slot, project_slot)
        job.start(made, lambda: self._done(made))

    def _done(self, finished: job.Job) -> None:
        with self._lock:
            self._jobs.pop(id(finished), None)

    def _shut_down(self, number: int) -> int:
        self.stopping.set()
        name = _SIGNALS[signal.Signals(number)]
        if number == signal.SIGQUIT:
            text = "Starting graceful shutdown, waiting for builds to finish"
            self._log("WARNING", text, {"StopSignal": "quit"})
            while self.builds():
                try:
                    number = self._signals.get(timeout=0.2)
                except queue.Empty:
                    continue
                if number in (signal.SIGTERM, signal.SIGINT):
                    name = _SIGNALS[signal.Signals(number)]
                    text = "[handleGracefulShutdown] received stop signal"
                    self._log("WARNING", text, {"stop-signal": name})
                    break
        if number != signal.SIGQUIT:
            self._abort_jobs(name)
        limit = {"shutdown-timeout": f"{_SHUTDOWN_TIMEOUT_S}s"}
        self._log("INFO", "All workers stopped.")
        self._log("INFO", "Shutting down executor providers", dict(limit))
        self._log("INFO", "All executor providers shut down.")
        self._log("INFO", "Can exit now!")
        return 0

    def _abort_jobs(self, name: str) -> None:
        text = (
            "Graceful shutdown not finished properly. To gracefully clean up running plugins please use "
            "SIGQUIT (ctrl-\\) instead of SIGINT (ctrl-c)"
        )
        self._log("WARNING", text, {"error": f"received stop signal: {name}"})
        timeout_s = int(self._config.get("shutdown_timeout") or 0) or _SHUTDOWN_TIMEOUT_S
        fields: dict[str, object] = {"StopSignal": name, "shutdown-timeout": f"{timeout_s}s"}
        self._log("WARNING", "Starting forceful shutdown", fields)
        with self._lock:
            running = [entry[0] for entry in self._jobs.values()]
        for one in running:
            one.abort(f"aborted: {name}", _INTERRUPTED)
        deadline = time.monotonic() + timeout_s
        while self.builds() and time.monotonic() < deadline:
            time.sleep(0.02)

    def metrics(self) -> str:
        """The runner's own metrics in Prometheus' text form; Go's process metrics are left out."""
        lines = [
            f"gitlab_runner_concurrent {self.concurrent}",
            "gitlab_runner_configuration_loaded_total 1",
            *(
                f'gitlab_runner_errors_total{{level="{level}"}} 0'
                for level in ("error", "fatal", "panic", "warning")
            ),
            f'gitlab_runner_version_info{{architecture="amd64",branch="stand-in",name="gitlab-runner",os="linux",'
            f'revision="{REVISION}",version="{VERSION}"}} 1',
        ]
        for poller in self._pollers:
            label = f'runner="{config.short_token(poller.runner["token"])}",system_id="{self._system}"'
            lines.append(f"gitlab_runner_limit{{{label}}} {int(poller.runner.get('limit') or 0)}")
            lines.append(
                f'gitlab_runner_jobs{{executor_stage="",stage="",state="running",{label}}} {self.builds()}'
            )
            for status, count in sorted(poller.statuses.items()):
                name = "gitlab_runner_api_request_statuses_total"
                lines.append(f'{name}{{endpoint="request_job",status="{status}",{label}}} {count}')
        return "\n".join(lines) + "\n"


class Poller(threading.Thread):
    """Asks GitLab for jobs for one `[[runners]]` entry."""

    def __init__(self, run: Run, runner: dict[str, Any], system: str) -> None:
        super().__init__(name="poller", daemon=True)
        self.runner, self._run, self._system = runner, run, system
        self._client = GitLab(runner["url"], runner.get("tls-ca-file", ""))
        self._last_update = ""
        self._unhealthy = 0
        self.stop = threading.Event()
        self.statuses: dict[int, int] = {}

    def run(self) -> None:
        """Poll on a fixed beat; after a job was received, again at once."""
        beat = time.monotonic()
        while not self.stop.is_set() and not self._run.stopping.is_set():
            if self._run.free_slot(self.runner) and self._ask():
                continue
            if self._unhealthy >= _UNHEALTHY_LIMIT:
                self._pause()
                beat = time.monotonic()
                continue
            interval = self._run.interval_s
            beat += interval * max(1, -(-(time.monotonic() - beat) // interval))
            self._sleep(beat - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        self._run.stopping.wait(max(0.0, seconds))

    def _ask(self) -> bool:
        token = self.runner["token"]
        answer, healthy = self._client.request_job(token, self._system, self._last_update)
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        self._unhealthy = 0 if healthy else self._unhealthy + 1
        self._last_update = answer.headers.get("x-gitlab-last-update", self._last_update)
        if answer.status != 201:
            return False
        self._run.take(answer.json, self.runner, self._client)
        return True

    def _pause(self) -> None:
        # The whole token, joined to the URL: the real one leaks it so, and redaction is tested on that.
        name = self.runner["url"] + self.runner["token"]
        log.error(
            f'Runner "{name}" is unhealthy and will be disabled for 1h0m0s seconds!',
            {"unhealthy_requests": _UNHEALTHY_LIMIT, "unhealthy_requests_limit": _UNHEALTHY_LIMIT},
        )
        self._unhealthy = 0
        self._sleep(_UNHEALTHY_S)


def _lowest(taken: set[int]) -> int:
    return next(number for number in range(len(taken) + 1) if number not in taken)


def serve_metrics(address: str, run: Run) -> None:
    """Serve /metrics in the background; a port in use is logged, not fatal here."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = run.metrics().encode() if self.path == "/metrics" else b"404 page not found\n"
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing: the log is the runner's."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
        daemon_threads = True

    host, _, port = address.rpartition(":")
    try:
        server = Server((host.strip("[]") or "0.0.0.0", int(port)), Handler)
    except OSError as error:
        log.error("Failed to create listener for metrics server", {"error": error, "pid": os.getpid()})
        return
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
