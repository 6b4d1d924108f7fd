"""`docker login`, `build`, `push` and `pull` by hand, as a user does it and as a job's script does it.

The stack is what `runner-conformance up --only registry` makes: a node with a Docker engine, the embedded
GitLab beside it, and the real registry in the cluster, with TLS and GitLab's tokens. Needs root and a bundle.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import gitlab
import pytest

from harness.artifacts.storage import Storage
from harness.gitlab.client import GitLabTarget, connect
from harness.gitlab.registry_client import RegistryClient, StorageSource, copy_image
from harness.options import ProvisionOptions
from harness.provision import Provisioner
from harness.redact import register
from harness.stack import StackContext
from harness.stack.registry import RegistryInfo
from selftests.gitlab.conftest import CI_FILE, commit_to
from selftests.gitlab.runner_client import Runner

ALPINE = "docker.io/library/alpine"
DOCKER_S = 120.0
TAG = "by-hand"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")


@dataclass(frozen=True)
class Login:
    """What `docker login` is given, and the image name that goes with it."""

    user: str
    password: str
    image: str


class Docker:
    """The docker command on the node, with a configuration directory of its own."""

    def __init__(self, stack: StackContext, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self._program = stack.state_dir / "cluster/docker-engine/usr/bin/docker"

    def __call__(self, *arguments: str, stdin: str = "") -> CompletedProcess[str]:
        given = self._directory / "stdin"
        given.touch(mode=0o600)
        given.write_text(stdin)
        command = [str(self._program), "--config", str(self._directory / "config"), *arguments]
        return self._stack.cluster.node_shell(
            ["sh", "-c", 'exec "$@" <"$0"', str(given), *command], timeout_s=DOCKER_S
        )

    def done(self, *arguments: str, stdin: str = "") -> str:
        """What a command that must succeed prints."""
        ended = self(*arguments, stdin=stdin)
        assert ended.returncode == 0, f"docker {arguments[0]}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def login(self, login: Login) -> CompletedProcess[str]:
        host = login.image.split("/", 1)[0]
        return self("login", "-u", login.user, "--password-stdin", host, stdin=login.password)


@dataclass(frozen=True)
class Person:
    """A user of the GitLab, and their private project; its registry holds the image ``base:latest``."""

    user: Any
    gl: gitlab.Gitlab
    project: Any

    def login(self, *scopes: str) -> Login:
        """With a personal access token; only an administrator can make those by the API."""
        made = self.user.personal_access_tokens.create({"name": "docker", "scopes": [*scopes]})
        return Login(self.user.username, made.token, self.image)

    @property
    def image(self) -> str:
        return str(self.project.container_registry_image_prefix)


def tags(project: Any) -> dict[str, list[str]]:
    """Repository path → tags, as GitLab lists them."""
    listed = project.repositories.list(get_all=True)
    return {it.path: [tag.name for tag in it.tags.list(get_all=True)] for it in listed}


@pytest.fixture(scope="module")
def stack(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackContext]:
    """A node with Docker, the embedded GitLab and its registry; all of it removed at the end."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path_factory.mktemp("home")))
        run = Provisioner(ProvisionOptions(artifacts=str(bundle_dir)))
        try:
            yield run.up(["registry"])
        finally:
            left = run.down()
    assert left == []


@pytest.fixture(scope="module")
def make_person(stack: StackContext) -> Callable[[], Person]:
    """Users of the GitLab, made by its administrator."""
    target: GitLabTarget = stack.results["gitlab"]
    administrator = connect(target)

    def make() -> Person:
        name = f"user-{uuid.uuid4().hex[:6]}"
        user = administrator.users.create(
            {"username": name, "name": name, "email": f"{name}@example.com", "force_random_password": True}
        )
        token = user.personal_access_tokens.create({"name": "api", "scopes": ["api"]}).token
        client = gitlab.Gitlab(target.url, private_token=token)
        project = client.projects.create({"name": "app", "visibility": "private"})
        push_base(stack, project.path_with_namespace, name, token)
        return Person(user, client, project)

    return make


def push_base(stack: StackContext, path: str, user: str, token: str) -> None:
    """Copy the base image from the bundle to a project, with the suite's own client."""
    registry: RegistryInfo = stack.results["registry"]
    provided = stack.artifacts.registry()
    assert provided is not None, "a bundle has a registry's storage"
    source, password = StorageSource(Storage(provided[1])), register(token)
    with RegistryClient(registry.url, user=user, password=password, ca_file=registry.ca_file) as client:
        copy_image(source, ALPINE, "latest", client, f"{path}/base", "latest")


@pytest.fixture(scope="module")
def person(make_person: Callable[[], Person]) -> Person:
    return make_person()


@pytest.fixture(scope="module")
def stranger(make_person: Callable[[], Person]) -> Person:
    return make_person()


@dataclass(frozen=True)
class Job:
    """A job of ``person`` that runs until ``end``, and what its script would log in with."""

    login: Login
    end: Callable[[], object]


@pytest.fixture
def job(stack: StackContext, person: Person) -> Iterator[Job]:
    """The job that a runner gets by asking for one."""
    project, tag = person.project, f"by-hand-{uuid.uuid4().hex[:6]}"
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": [tag]}
    person.gl.auth()
    made = person.gl.user.runners.create(wanted)
    commit_to(project, CI_FILE.format(tag=tag))
    project.pipelines.create({"ref": "main"})
    runner = Runner(stack.results["gitlab"].url, made.token, made.id)
    payload = runner.take()
    given = {it["key"]: it["value"] for it in payload["variables"]}
    login = Login(given["CI_REGISTRY_USER"], given["CI_REGISTRY_PASSWORD"], given["CI_REGISTRY_IMAGE"])
    yield Job(login, lambda: runner.finish(payload))
    runner.close()
    person.gl.runners.delete(made.id)


@pytest.fixture
def docker(stack: StackContext, tmp_path: Path) -> Docker:
    return Docker(stack, tmp_path)


@pytest.fixture(params=["personal", "job"])
def login(request: pytest.FixtureRequest, person: Person) -> Login:
    """With each of the two kinds of token that a registry client can have."""
    if request.param == "job":
        given: Job = request.getfixturevalue("job")
        return given.login
    return person.login("read_registry", "write_registry")


def test_login_build_push_and_pull(docker: Docker, login: Login, person: Person, tmp_path: Path) -> None:
    """An image is built upon a private base, pushed, listed by GitLab, and comes back as it was built."""
    image, tag = f"{login.image}/made", uuid.uuid4().hex[:8]
    context = tmp_path / "context"
    context.mkdir()
    (context / "greeting").write_text(tag)
    (context / "Dockerfile").write_text(
        f"FROM {login.image}/base:latest\nCOPY greeting /greeting\nRUN cat /greeting /greeting > /twice\n"
    )
    assert "Login Succeeded" in docker.login(login).stdout
    docker.done("build", "--pull", "--tag", f"{image}:{tag}", str(context))
    pushed = docker.done("push", f"{image}:{tag}")
    digest = re.search(r"digest: (sha256:[0-9a-f]{64})", pushed)
    assert digest, pushed
    repository = next(it for it in person.project.repositories.list(get_all=True) if it.location == image)
    assert repository.tags.get(tag).digest == digest[1]
    docker.done("image", "rm", f"{image}:{tag}", f"{login.image}/base:latest")
    assert digest[1] in docker.done("pull", f"{image}:{tag}")
    assert docker.done("run", "--rm", "--network=none", f"{image}:{tag}", "cat", "/twice") == tag * 2


def test_push_to_the_project_of_another_is_denied(
    docker: Docker, login: Login, person: Person, stranger: Person
) -> None:
    """Neither a user's token nor a job's opens the project of someone else, to read or to write."""
    before = tags(stranger.project)
    assert docker.login(login).returncode == 0
    docker.done("pull", f"{login.image}/base:latest")
    docker.done("tag", f"{login.image}/base:latest", f"{stranger.image}/base:smuggled")
    pushed = docker("push", f"{stranger.image}/base:smuggled")
    assert pushed.returncode != 0, pushed.stdout
    assert "requested access to the resource is denied" in pushed.stderr
    assert tags(stranger.project) == before
    pulled = docker("pull", f"{stranger.image}/base:latest")
    assert pulled.returncode != 0, pulled.stdout
    assert "denied" in pulled.stderr


def test_a_job_may_not_push_to_another_project_of_its_user(docker: Docker, job: Job, person: Person) -> None:
    """The user's own token may; so it is the job's project that counts, not the user."""
    other = person.gl.projects.create({"name": "other", "visibility": "private"})
    image = f"{other.container_registry_image_prefix}:{TAG}"
    assert docker.login(job.login).returncode == 0
    docker.done("pull", f"{job.login.image}/base:latest")
    docker.done("tag", f"{job.login.image}/base:latest", image)
    pushed = docker("push", image)
    assert pushed.returncode != 0, pushed.stdout
    assert "requested access to the resource is denied" in pushed.stderr
    assert docker.login(person.login("read_registry", "write_registry")).returncode == 0
    docker.done("push", image)
    assert tags(other) == {other.path_with_namespace: [TAG]}


def test_a_token_that_may_only_read_pulls_but_does_not_push(docker: Docker, person: Person) -> None:
    login = person.login("read_registry")
    assert docker.login(login).returncode == 0
    docker.done("pull", f"{login.image}/base:latest")
    docker.done("tag", f"{login.image}/base:latest", f"{login.image}/base:read-only")
    pushed = docker("push", f"{login.image}/base:read-only")
    assert pushed.returncode != 0, pushed.stdout
    assert "requested access to the resource is denied" in pushed.stderr


def test_the_job_s_token_is_worth_nothing_after_the_job(docker: Docker, job: Job) -> None:
    assert "Login Succeeded" in docker.login(job.login).stdout
    job.end()
    refused = docker.login(job.login)
    assert refused.returncode != 0, refused.stdout
    assert "HTTP Basic: Access denied" in refused.stderr
