"""One job from receipt to its final state: the stages, their sections in the log, the ways of failing."""

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import REVISION, VERSION, log, pod, shell
from .config import short_token
from .executor import Executor
from .kube import Kube, KubeError
from .network import GitLab
from .stamps import WORK
from .trace import Trace
from .variables import Variables, job_variables, timeout_s

RED, CYAN, END = "\x1b[31;1m", "\x1b[36;1m", "\x1b[0;m"
_PREPARATIONS = 3
_RETRY_S = 3
_AFTER_SCRIPT_S = 300
_PROFILE_HINT = (
    "Check https://docs.gitlab.com/runner/shells/index.html#shell-profile-loading for more information"
)
_TITLES = {
    "prepare_executor": 'Preparing the "kubernetes" executor',
    "prepare_script": "Preparing environment",
    "get_sources": "Getting source from Git repository",
    "after_script": "Running after_script",
    "cleanup_file_variables": "Cleaning up project directory and file based variables",
}


class BuildError(Exception):
    """The job failed for a reason of its own; other exceptions are system failures.

    `ends` is set when nothing more may run (cancel, timeout, shutdown).
    """

    def __init__(
        self, message: str, reason: str = "script_failure", *, exit_code: int = 0, ends: bool = False
    ) -> None:
        super().__init__(message)
        self.reason, self.exit_code, self.ends = reason, exit_code, ends


class Job:
    """Runs one payload of jobs/request."""

    def __init__(
        self,
        payload: dict[str, Any],
        runner: dict[str, Any],
        client: GitLab,
        system: str,
        slots: tuple[int, int],
        builds: Callable[[], int],
    ) -> None:
        self.payload = self._payload = payload
        self._runner, self._client, self._system = runner, client, system
        self._config: dict[str, Any] = runner.get("kubernetes") or {}
        self._slot, self._project_slot = slots
        self._builds = builds
        self._started = time.monotonic()
        self._deadline = self._started + timeout_s(payload)
        self._events: queue.Queue[BuildError | KubeError | int] = queue.Queue()
        self._fields: dict[str, object] = {
            "job": payload["id"],
            "project": pod.directories(payload)[0],
            "runner": short_token(runner["token"]),
        }
        shown = runner | {"_short": short_token(runner["token"])}
        self._trace = Trace(client, payload, shown, lambda: self.abort("canceled", "job_canceled"))
        self._executor: Executor | None = None
        self._status = "running"

    def abort(self, message: str, reason: str) -> None:
        """Stop at once (from another thread); after_script does not run."""
        self._events.put(BuildError(message, reason, ends=True))

    def run(self) -> None:
        """Do it all; never raises."""
        self._trace.start()
        failure: Exception | None = None
        try:
            self._run()
        except Exception as error:  # whatever it is, GitLab must hear that the job is over
            failure = error
        if self._executor:
            self._executor.cleanup()
        self._conclude(failure)

    def _run(self) -> None:
        short, name = short_token(self._runner["token"]), self._runner.get("name", "")
        self._line(f"Running with gitlab-runner {VERSION} ({REVISION})")
        self._line(f"  on {name} {short}, system ID: {self._system}")
        variables = self._variables()
        features = self._payload.get("features") or {}
        secret_values = [*variables.masked, self._payload.get("token", "")]
        self._trace.mask(secret_values, features.get("token_mask_prefixes") or [])
        self._section("prepare_executor", lambda: self._prepare_executor(variables))
        executor = self._executor = Executor(
            Kube.from_environment(self._config),
            self._payload,
            variables,
            self._config,
            pod.generate_name(short, pod.directories(self._payload)[0], self._project_slot),
            self._output,
        )
        self._section("prepare_script", lambda: self._prepare_environment(executor))
        try:
            self._scripts(executor, variables)
        finally:
            self._cleanup_files(executor, variables)

    def _variables(self) -> Variables:
        image = (self._payload.get("image") or {}).get("name") or ""
        return job_variables(self._payload, self._runner, self._slot, self._project_slot, image)

    def _prepare_executor(self, variables: Variables) -> None:
        for _ in range(_PREPARATIONS):
            problem = self._configuration_problem(variables)
            if not problem:
                break
            self._trace.write(f"{RED}ERROR: Preparation failed: {problem}{END}\n")
            self._trace.write(f"{shell.GREEN}Will be retried in 3s ...{END}\n")
            log.warning(f"Preparation failed: {problem}", self._fields)
            log.info("Will be retried in 3s ...", self._fields)
            self._wait_or_end(_RETRY_S)
        else:
            raise ValueError(problem)
        self._line(f"Using Kubernetes namespace: {pod.namespace(self._config)}")
        image = pod.build_image(self._payload, variables, self._config)
        self._line(f"Using Kubernetes executor with image {image} ...")
        self._line("Using attach strategy to execute scripts...")

    def _configuration_problem(self, variables: Variables) -> str:
        image = pod.build_image(self._payload, variables, self._config)
        if not image:
            return "no image specified and no default set in config"
        wanted = (self._payload.get("image") or {}).get("pull_policy") or []
        allowed = self._config.get("allowed_pull_policies") or pod.pull_policies(self._config)
        if set(wanted) <= set(allowed):
            return ""
        shown = " ".join(pod.PULL_POLICIES.get(policy, policy) for policy in wanted)
        listed = " ".join(
            pod.PULL_POLICIES.get(policy, policy)
            for policy in self._config.get("allowed_pull_policies") or []
        )
        return (
            f"failed to pull image '{image}': pull_policy ([{shown}]) defined in GitLab pipeline config "
            f"is not one of the allowed_pull_policies ([{listed}])"
        )

    def _prepare_environment(self, executor: Executor) -> None:
        try:
            executor.create()
            self._wait_for_pod(executor)
            executor.begin(self._events.put)
            self._stage(executor, "helper", "prepare_script", shell.prepare(socket.gethostname()))
        except BuildError as error:
            if error.ends:
                raise
            text = f"prepare environment: {error}. {_PROFILE_HINT}"
            raise BuildError(text, error.reason, exit_code=error.exit_code) from error
        except KubeError as error:
            raise KubeError(f"prepare environment: {error}. {_PROFILE_HINT}") from error

    def _wait_for_pod(self, executor: Executor) -> None:
        poll = int(self._config.get("poll_interval") or 3)
        for _ in range(max(1, int(self._config.get("poll_timeout") or 180) // poll)):
            state = executor.pod_state()
            if state.running:
                return
            if state.pull_error:
                if state.pulled_image:
                    self._warn(f'Failed to pull image with policy "": {state.pull_error}')
                prefix = f'pulling image "{state.pulled_image}": ' if state.pulled_image else ""
                raise BuildError(f"waiting for pod running: {prefix}{state.pull_error}")
            if state.phase in ("Succeeded", "Failed"):
                raise BuildError(f"waiting for pod running: pod status is {state.phase.lower()}")
            self._trace.write(executor.waiting_text(state))
            self._wait_or_end(poll)
        raise KubeError("waiting for pod running: timed out waiting for pod to start")

    def _scripts(self, executor: Executor, variables: Variables) -> None:
        debug = variables.get("CI_DEBUG_TRACE") == "true"

        def stage(name: str, container: str, body: str, limit_s: float | None = None) -> None:
            self._section(name, lambda: self._stage(executor, container, name, body, limit_s, debug=debug))

        stage("get_sources", "helper", shell.get_sources(self._payload, variables))
        failure: BuildError | None = None
        steps = [s for s in self._payload.get("steps") or [] if s.get("script")]
        for step in [s for s in steps if s["name"] != "after_script"]:
            try:
                script = shell.user_script(step["script"], self._payload, variables, "running", after=False)
                stage(f"step_{step['name']}", "build", script)
            except BuildError as error:
                if error.ends:
                    raise
                failure = error
                break
        status = "failed" if failure else "success"
        for step in [s for s in steps if s["name"] == "after_script"]:
            script = shell.user_script(step["script"], self._payload, variables, status, after=True)
            try:
                stage("after_script", "build", script, _AFTER_SCRIPT_S)
            except BuildError as error:
                if error.ends:
                    raise  # an after_script that fails does not fail the job
        if failure:
            raise failure

    def _cleanup_files(self, executor: Executor, variables: Variables) -> None:
        body = shell.cleanup_files(variables)
        if body and not executor.broken:
            try:
                self._section(
                    "cleanup_file_variables",
                    lambda: self._stage(executor, "helper", "cleanup_file_variables", body),
                )
            except (BuildError, KubeError) as error:
                log.warning(
                    "Error while executing file based variables removal script",
                    self._fields | {"error": error},
                )

    def _stage(
        self,
        executor: Executor,
        container: str,
        name: str,
        body: str,
        limit_s: float | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Run one script and wait for the line with its exit code, watching the pod meanwhile."""
        executor.launch(container, name, body, debug=debug)
        end = time.monotonic() + limit_s if limit_s else None
        while True:
            left = min(self._deadline, end or self._deadline) - time.monotonic()
            try:
                event = self._events.get(timeout=max(0.0, min(3.0, left)))
            except queue.Empty:
                if time.monotonic() >= self._deadline:
                    executor.broken = True
                    raise self._timed_out() from None
                if end and time.monotonic() >= end:
                    raise BuildError("after_script timed out") from None
                executor.check()
                continue
            if isinstance(event, Exception):
                executor.broken = True
                note = self._fields | {"error": "context canceled"}
                log.warning("Error while executing file based variables removal script", note)
                raise event
            if event:
                raise BuildError(f"command terminated with exit code {event}", exit_code=event)
            return

    def _wait_or_end(self, seconds: float) -> None:
        left = self._deadline - time.monotonic()
        try:
            event = self._events.get(timeout=max(0.0, min(seconds, left)))
        except queue.Empty:
            if left <= seconds:
                raise self._timed_out() from None
            return
        if isinstance(event, Exception):
            raise event

    def _timed_out(self) -> BuildError:
        limit = timeout_s(self._payload)
        return BuildError(
            f"execution took longer than {go_duration(limit)} seconds", "job_execution_timeout", ends=True
        )

    # The log

    def _line(self, text: str) -> None:
        self._trace.write(f"\x1b[0K{text}{END}\n")

    def _warn(self, text: str) -> None:
        self._trace.write(f"\x1b[0;33mWARNING: {text}{END}\n")
        log.warning(text, self._fields)

    def _section(self, name: str, body: Callable[[], None]) -> None:
        title = _TITLES.get(name) or f'Executing "{name}" stage of the job script'
        marked = (self._payload.get("features") or {}).get("trace_sections")

        def mark(what: str) -> None:
            if marked:
                self._trace.write(f"section_{what}:{int(time.time())}:{name}\r\x1b[0K")

        mark("start")
        self._line(f"{CYAN}{title}{END}")
        try:
            body()
        finally:
            mark("end")

    def _output(self, line: bytes) -> None:
        """One line of the pod's log: either the exit code of a stage or text for the trace."""
        if line.startswith(b'{"command_exit_code"'):
            try:
                self._events.put(int(json.loads(line)["command_exit_code"]))
                return
            except (ValueError, KeyError):
                pass
        self._trace.write(line, WORK)

    def _conclude(self, failure: Exception | None) -> None:
        fields = self._fields | {"duration_s": round(time.monotonic() - self._started, 9)}
        if failure is None:
            self._trace.write(f"{shell.GREEN}Job succeeded{END}\n")
            log.info("Job succeeded", fields)
            self._trace.finish("success")
            return
        own = isinstance(failure, BuildError)
        reason = failure.reason if isinstance(failure, BuildError) else "runner_system_failure"
        system = " (system failure)" if reason == "runner_system_failure" else ""
        text = f"Job failed{system}: {failure}" + ("\n" if own else "")
        self._trace.write(f"{RED}ERROR: {text}{END}\n")
        log.log("WARNING" if own else "ERROR", text, fields)
        self._trace.finish("failed", reason, failure.exit_code if isinstance(failure, BuildError) else 0)
        log.warning(
            "Failed to process runner",
            {
                "builds": self._builds(),
                "error": failure,
                "executor": "kubernetes",
                "runner": self._fields["runner"],
            },
        )


def go_duration(seconds: int) -> str:
    """20s, 1m0s, 1h0m0s."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + f"{left}s"


def project_of(payload: Mapping[str, Any]) -> int:
    """The project id of a payload, 0 when it names none."""
    return pod.directories(payload)[0]


def start(job: Job, done: Callable[[], None]) -> threading.Thread:
    """Run a job in a thread of its own; `done` is called at its very end."""

    def body() -> None:
        try:
            job.run()
        finally:
            done()

    thread = threading.Thread(target=body, name="job")
    thread.start()
    return thread
