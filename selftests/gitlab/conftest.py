"""The GitLab that the tests talk to: an embedded one of their own, or any other by URL and token."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gitlab
import httpx
import pytest

from harness.gitlab.client import GitLabTarget, connect
from harness.gitlab.embedded import EmbeddedGitLab
from harness.redact import register
from selftests.gitlab.runner_client import Runner

CI_FILE = """\
build:
  image: alpine:latest
  tags: [{tag}]
  script:
    - echo hello
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gitlab contract")
    group.addoption(
        "--gitlab", metavar="URL", help="run the contract against this GitLab, not an embedded one"
    )
    group.addoption(
        "--gitlab-token", metavar="FILE", help="file with a personal access token of scope api for it"
    )
    group.addoption("--gitlab-ca", metavar="FILE", help="CA of that GitLab and its registry, PEM")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "embedded_only: of the embedded GitLab itself, no part of the contract of every GitLab"
    )
    if config.getoption("--gitlab", default=None) and not config.getoption("--gitlab-token"):
        raise pytest.UsageError("--gitlab needs --gitlab-token: without one nothing can be made there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --gitlab only what says something about that GitLab is run."""
    if not config.getoption("--gitlab", default=None):
        return
    own = [item for item in items if _of_the_embedded(item)]
    config.hook.pytest_deselected(items=own)
    items[:] = [item for item in items if item not in own]


def _of_the_embedded(item: pytest.Item) -> bool:
    here = Path(__file__).parent in item.path.parents
    marked = item.get_closest_marker("embedded_only") is not None
    return here and (marked or "embedded" in getattr(item, "fixturenames", ()))


@dataclass(frozen=True)
class Server:
    """A GitLab under test. ``state_dir`` is None where it isn't ours."""

    target: GitLabTarget
    gl: gitlab.Gitlab
    state_dir: Path | None

    @property
    def url(self) -> str:
        return self.target.url

    @property
    def token(self) -> str:
        return self.target.token.reveal()

    @functools.cached_property
    def http(self) -> httpx.Client:
        """Plain requests to it, that trust what the target trusts."""
        return httpx.Client(base_url=self.url, verify=trust(self.target.ca_file), trust_env=False, timeout=60)

    def runner(self, token: str, runner_id: int = 0, **options: Any) -> Runner:
        """A runner process with a token of this GitLab."""
        return Runner(self.url, token, runner_id, verify=self.target.ca_file, **options)

    def as_user(self, token: str) -> gitlab.Gitlab:
        """python-gitlab with another token."""
        return connect(dataclasses.replace(self.target, token=register(token)))

    @property
    def admin(self) -> bool:
        return bool(getattr(self.gl.user, "is_admin", False))


def trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What httpx takes as ``verify``."""
    return ssl.create_default_context(cafile=str(ca_file)) if ca_file else True


def _server(target: GitLabTarget, state_dir: Path | None) -> Server:
    client = connect(target)
    client.auth()
    return Server(target, client, state_dir)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The GitLab of the contract: --gitlab, or an embedded one for the session."""
    if url := request.config.getoption("--gitlab", default=None):
        file, authority = request.config.getoption("--gitlab-token"), request.config.getoption("--gitlab-ca")
        token = register(Path(file).read_text().strip())
        yield _server(GitLabTarget(url, token, Path(authority) if authority else None), None)
        return
    with EmbeddedGitLab("127.0.0.1", tmp_path_factory.mktemp("gitlab"), long_poll_s=1.0) as process:
        yield _server(GitLabTarget(process.url, process.token, embedded=True), process.state_dir)


@pytest.fixture(autouse=True)
def git_trusts_it(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """git takes the CA of --gitlab-ca from the environment."""
    if authority := request.config.getoption("--gitlab-ca", default=None):
        monkeypatch.setenv("GIT_SSL_CAINFO", str(Path(authority).resolve()))


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Embedded GitLabs with options of the test's own; all stopped at its end."""
    running: list[EmbeddedGitLab] = []

    def start(*extra: str, **options: Any) -> Server:
        directory = options.pop("state_dir", tmp_path / f"gitlab-{len(running)}")
        process = EmbeddedGitLab(
            "127.0.0.1", directory, extra=extra, **{"long_poll_s": 1.0, **options}
        ).start()
        running.append(process)
        return _server(GitLabTarget(process.url, process.token, embedded=True), directory)

    yield start
    for process in running:
        process.stop()


@pytest.fixture
def make_project(server: Server) -> Iterator[Callable[..., Any]]:
    """Private projects, removed at the end of the test."""
    made: list[Any] = []

    def make(**attributes: Any) -> Any:
        name = f"contract-{uuid.uuid4().hex[:10]}"
        made.append(server.gl.projects.create({"name": name, **attributes}))
        return made[-1]

    yield make
    for project in made:
        project.delete()


@pytest.fixture
def project(make_project: Callable[..., Any]) -> Any:
    """An empty private project."""
    return make_project()


@pytest.fixture
def tag() -> str:
    """A runner tag that no other runner of the GitLab has."""
    return f"contract-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_runner(server: Server) -> Iterator[Callable[..., Runner]]:
    """Project runners that speak the protocol, removed at the end of the test."""
    made: list[Runner] = []

    def make(project: Any, *tags: str, **attributes: Any) -> Runner:
        wanted = {
            "runner_type": "project_type",
            "project_id": project.id,
            "tag_list": list(tags),
            **attributes,
        }
        answer = server.gl.user.runners.create(wanted)
        made.append(server.runner(answer.token, answer.id))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def runner(make_runner: Callable[..., Runner], project: Any, tag: str) -> Runner:
    """One runner of the project with one tag."""
    return make_runner(project, tag)


@pytest.fixture
def commit(project: Any) -> Callable[..., Any]:
    """Commit ``.gitlab-ci.yml`` (and other files) without starting a pipeline."""
    return lambda content, **files: commit_to(project, content, **files)


def commit_to(project: Any, content: str, branch: str = "main", **files: str) -> Any:
    """Commit files to a project; ``[skip ci]`` keeps the push from starting a pipeline."""
    exists = bool(project.branches.list(per_page=1, get_all=False))
    known = (
        {entry["path"] for entry in project.repository_tree(ref=branch, recursive=True, iterator=True)}
        if exists
        else set()
    )
    actions = [
        {"action": "update" if path in known else "create", "file_path": path, "content": text}
        for path, text in {".gitlab-ci.yml": content, **files}.items()
    ]
    return project.commits.create({"branch": branch, "commit_message": "Test [skip ci]", "actions": actions})


@pytest.fixture
def running_job(project: Any, runner: Runner, tag: str) -> dict[str, Any]:
    """A job that ``runner`` has been handed."""
    commit_to(project, CI_FILE.format(tag=tag))
    project.pipelines.create({"ref": "main"})
    return runner.take()


@pytest.fixture(scope="session")
def registry_program() -> Path:
    """A real registry (distribution): from a bundle, or on the PATH as Debian names it."""
    if bundle := os.environ.get("RUNNER_CONFORMANCE_BUNDLE"):
        return Path(bundle) / "files" / "registry"
    found = shutil.which("docker-registry")
    if found is None:
        pytest.skip(
            "no registry program: install docker-registry, or name a bundle in RUNNER_CONFORMANCE_BUNDLE"
        )
    return Path(found)
