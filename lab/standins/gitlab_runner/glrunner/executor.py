"""The build pod's life: create, look at, run scripts in, stream its log, delete."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import pod as render
from . import shell
from .kube import Kube, KubeError, Stream
from .variables import Variables

_STREAM_RETRY_S = 1.0
_LOG_WAIT = "1m0s"


@dataclass(frozen=True)
class PodState:
    """What a GET of the pod showed."""

    phase: str
    conditions: tuple[tuple[str, str], ...]  # reason, message
    pull_error: str = ""
    pulled_image: str = ""

    @property
    def running(self) -> bool:
        """Running, as far as the phase says."""
        return self.phase == "Running"


class Executor:
    """One job's pod. `broken` is set when nothing more can or may run in it."""

    def __init__(
        self,
        kube: Kube,
        job: Mapping[str, Any],
        variables: Variables,
        config: Mapping[str, Any],
        name: str,
        output: Callable[[bytes], None],
    ) -> None:
        self._kube, self._job, self._variables, self._config = kube, job, variables, config
        self._name, self._output = name, output
        self._namespace = render.namespace(config)
        _, self._scripts, self._logs = render.directories(job)
        self._secret: dict[str, Any] | None = None
        self._pod: dict[str, Any] | None = None
        self._offset, self._pending = 0, b""
        self._log_stream: Stream | None = None
        self._ended = threading.Event()
        self.broken = False

    def create(self) -> None:
        """Secret, pod, then the secret again with the pod as its owner."""
        wanted = render.pull_secret(self._job, self._variables, self._config, self._name)
        if wanted:
            try:
                self._secret = self._kube.call("POST", f"namespaces/{self._namespace}/secrets", wanted)
            except KubeError as error:
                raise KubeError(f"setting up credentials: {error}", error.code) from error
        secret_name = self._secret["metadata"]["name"] if self._secret else None
        body = render.build_pod(self._job, self._variables, self._config, self._name, secret_name)
        try:
            self._pod = self._kube.call("POST", f"namespaces/{self._namespace}/pods", body)
        except KubeError as error:
            raise KubeError(f"setting up build pod: {error}", error.code) from error
        if self._secret and self._pod:
            metadata = self._pod["metadata"]
            owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
            self._secret["metadata"]["ownerReferences"] = [owner]
            path = f"namespaces/{self._namespace}/secrets/{secret_name}"
            self._secret = self._kube.call("PUT", path, self._secret)

    def pod_state(self) -> PodState:
        """GET the pod; raises KubeError (404 when someone deleted it)."""
        assert self._pod is not None
        try:
            found = self._kube.call("GET", self._path)
        except KubeError as error:
            if error.code == 404:
                self._pod = None
                self.broken = True
            raise
        status = found.get("status") or {}
        conditions = tuple(
            (c["reason"], c.get("message", "")) for c in status.get("conditions") or [] if c.get("reason")
        )
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            message = f"image pull failed: {waiting.get('message', '')}"
            if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff"):
                return PodState(status.get("phase", ""), conditions, message, container["image"])
            if waiting.get("reason") == "InvalidImageName":
                return PodState(status.get("phase", ""), conditions, message)
        return PodState(status.get("phase", ""), conditions)

    def waiting_text(self, state: PodState) -> str:
        """What the log says while the pod is not running."""
        assert self._pod is not None
        name = self._pod["metadata"]["name"]
        head = f"Waiting for pod {self._namespace}/{name} to be running, status is {state.phase}\n"
        return head + "".join(f'\t{reason}: "{message}"\n' for reason, message in state.conditions)

    @property
    def _path(self) -> str:
        assert self._pod is not None
        return f"namespaces/{self._namespace}/pods/{self._pod['metadata']['name']}"

    def check(self) -> None:
        """Raise KubeError when the pod is gone or no longer running."""
        state = self.pod_state()
        if not state.running:
            self.broken = True
            assert self._pod is not None
            name = f"{self._namespace}/{self._pod['metadata']['name']}"
            raise KubeError(f'pod "{name}" is not running: {state.phase}')

    def begin(self, failed: Callable[[KubeError], None]) -> None:
        """Put the launcher into the pod and start streaming the log."""
        self.check()
        try:
            self._exec("build", shell.save(f"{self._scripts}/launcher", shell.launcher()))
        except KubeError as error:
            raise KubeError(f"setting up trapping scripts on emptyDir: {error}", error.code) from error
        self.check()
        threading.Thread(target=self._follow_log, name="log", daemon=True).start()

    def launch(self, container: str, stage: str, body: str, *, debug: bool = False) -> None:
        """Save a stage's script into the pod and start it."""
        self.check()
        path = f"{self._scripts}/{stage}"
        self._exec(container, shell.save(path, shell.stage_script(path, body, debug=debug)))
        self.check()
        command = shell.run(self._scripts, self._logs, stage)
        self._stream("attach", [("container", container), ("stdin", "true")], stdin=command).wait()

    def _exec(self, container: str, stdin: str) -> None:
        query = [("command", part) for part in ("sh", "-c", shell.detect())]
        query += [("container", container), ("stderr", "true"), ("stdin", "true"), ("stdout", "true")]
        self._stream("exec", query, stdin=stdin).wait()

    def _stream(self, verb: str, query: list[tuple[str, str]], *, stdin: str) -> Stream:
        assert self._pod is not None
        return self._kube.stream(verb, self._pod, query, stdin=stdin)

    def _follow_log(self) -> None:
        while not self._ended.is_set() and self._pod is not None:
            command = ["gitlab-runner-helper", "read-logs", "--path", f"{self._logs}/output.log"]
            command += ["--offset", str(self._offset), "--wait-file-timeout", _LOG_WAIT]
            query = [("command", part) for part in command]
            query += [("container", "helper"), ("stderr", "true"), ("stdout", "true")]
            try:
                self._pending = b""
                self._log_stream = self._kube.stream("exec", self._pod, query, on_output=self._log_bytes)
                self._log_stream.wait()
            except KubeError:
                pass  # the pod's own state says why; the stream is opened again as long as the job goes on
            self._ended.wait(_STREAM_RETRY_S)

    def _log_bytes(self, data: bytes) -> None:
        if self._ended.is_set():
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            offset, space, text = line.partition(b" ")
            if space and offset.isdigit():
                self._offset = int(offset)
                self._output(text + b"\n")
            else:
                self._output(line + b"\n")

    def cleanup(self) -> None:
        """Delete the pod (its secret goes with it), or the secret alone when there never was a pod."""
        self._ended.set()
        try:
            if self._pod is not None:
                self._kube.call("DELETE", self._path, {"propagationPolicy": "Foreground"})
            elif self._secret is not None and not self.broken:
                self._kube.call(
                    "DELETE", f"namespaces/{self._namespace}/secrets/{self._secret['metadata']['name']}"
                )
        except KubeError as error:
            if error.code != 404:
                self._output(f"Error cleaning up pod: {error}\n".encode())
        if self._log_stream:
            self._log_stream.close()
