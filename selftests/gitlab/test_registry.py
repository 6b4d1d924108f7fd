"""A real registry with GitLab's tokens; docker and skopeo as clients.

With the embedded GitLab it is distribution on loopback; another GitLab brings its own.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
import yaml
from cryptography import x509

from fixtures.steps import accepted_build
from fixtures.steps.accepted_build import AcceptedBuild
from harness.artifacts.storage import Storage, image_manifest
from harness.elsewhere import made_in_gitlab, remove_from_gitlab
from harness.gitlab.certificates import issue
from harness.gitlab.client import GitLabSession, GitLabTarget, connect
from harness.gitlab.embedded import EmbeddedGitLab
from harness.gitlab.registry_client import RegistryClient, StorageSource, copy_image
from harness.options import ProvisionOptions
from harness.profile import load_profile
from harness.redact import register
from harness.stack.registry import configuration
from harness.web import WebProblem
from selftests.gitlab.conftest import CI_FILE, Server, commit_to
from selftests.gitlab.test_accepted_build import RUNNER, WAY, Pods, Recorder


@dataclass(frozen=True)
class GitLabWithRegistry:
    """A GitLab, its registry, and an image on disk."""

    server: Server
    host: str
    ca_file: Path | None
    image: Storage

    @property
    def environment(self) -> dict[str, str]:
        """In which docker and skopeo, as programs in Go, trust the CA."""
        return {**os.environ, **({"SSL_CERT_FILE": str(self.ca_file)} if self.ca_file else {})}

    @property
    def user(self) -> str:
        return str(self.server.gl.user.username)

    def client(self, user: str = "", password: str | None = None) -> RegistryClient:
        secret = register(password or self.server.token)
        return RegistryClient(
            f"https://{self.host}", user=user or self.user, password=secret, ca_file=self.ca_file
        )

    def project(self) -> Any:
        return self.server.gl.projects.create({"name": f"registry-{uuid.uuid4().hex[:10]}"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GitLabWithRegistry]:
    """The registry of the GitLab that --gitlab names, or one of our own."""
    directory = tmp_path_factory.mktemp("registry")
    if request.config.getoption("--gitlab", default=None):
        yield foreign_world(request.getfixturevalue("server"), directory)
        return
    with own_world(request.getfixturevalue("registry_program"), directory) as made:
        yield made


def foreign_world(server: Server, directory: Path) -> GitLabWithRegistry:
    """The registry that GitLab itself names."""
    probe = server.gl.projects.create({"name": f"registry-{uuid.uuid4().hex[:10]}"})
    prefix = probe.attributes.get("container_registry_image_prefix")
    probe.delete()
    if not prefix:
        pytest.skip("this GitLab has no container registry")
    return GitLabWithRegistry(
        server, prefix.split("/", 1)[0], server.target.ca_file, an_image(directory / "bundle")
    )


@contextlib.contextmanager
def own_world(registry_program: Path, directory: Path) -> Iterator[GitLabWithRegistry]:
    """The registry on loopback with TLS, as it is configured in the cluster, and a GitLab for it."""
    host = f"127.0.0.1:{free_port()}"
    made = issue("127.0.0.1", "test")
    ca_file = directory / "authority" / "ca.crt"
    ca_file.parent.mkdir()
    for file, text in (
        (directory / "tls.crt", made.certificate),
        (directory / "tls.key", made.key),
        (ca_file, made.authority),
    ):
        file.write_text(text)
    with EmbeddedGitLab(
        "127.0.0.1", directory / "gitlab", host, registry_ca=ca_file, long_poll_s=1.0
    ) as process:
        shutil.copy(process.token_certificate, directory / "token.crt")
        settings: dict[str, Any] = configuration(host, process.url, str(directory))
        settings["storage"]["filesystem"]["rootdirectory"] = str(directory / "storage")
        (directory / "config.yml").write_text(yaml.safe_dump(settings))
        with (directory / "log").open("wb") as log:
            registry = subprocess.Popen(
                [registry_program, "serve", directory / "config.yml"], stdout=log, stderr=log
            )
        try:
            wait_for_answer(host, ca_file)
            client = connect(GitLabTarget(process.url, process.token))
            client.auth()
            target = GitLabTarget(
                process.url, process.token, registry_host=host, registry_ca=ca_file, embedded=True
            )
            yield GitLabWithRegistry(
                Server(target, client, process.state_dir), host, ca_file, an_image(directory / "bundle")
            )
        finally:
            registry.terminate()
            registry.wait(10)


def wait_for_answer(host: str, ca_file: Path) -> None:
    trust, end = ssl.create_default_context(cafile=str(ca_file)), time.monotonic() + 20
    while True:
        try:
            httpx.get(f"https://{host}/v2/", verify=trust, trust_env=False)
            return
        except httpx.TransportError:
            assert time.monotonic() < end, "the registry does not answer"
            time.sleep(0.1)


def an_image(directory: Path) -> Storage:
    """An image of two layers in a bundle's storage."""
    storage = Storage(directory)
    layers = [
        storage.put_blob(os.urandom(3_000_000), "application/vnd.oci.image.layer.v1.tar+gzip"),
        storage.put_blob(b"second layer", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ]
    content = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    )
    config = storage.put_blob(content.encode(), "application/vnd.oci.image.config.v1+json")
    storage.put_manifest("docker.io/library/alpine", image_manifest(config, layers), "latest")
    return storage


@pytest.fixture
def project(world: GitLabWithRegistry) -> Iterator[Any]:
    made = world.project()
    yield made
    made.delete()


@pytest.fixture
def other(world: GitLabWithRegistry) -> Iterator[Any]:
    """Another project of the same user."""
    made = world.project()
    yield made
    made.delete()


@pytest.fixture
def job(world: GitLabWithRegistry, project: Any, tag: str) -> dict[str, Any]:
    """A running job of ``project``."""
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": [tag]}
    token = world.server.gl.user.runners.create(wanted).token
    runner = world.server.runner(token)
    commit_to(project, CI_FILE.format(tag=tag))
    project.pipelines.create({"ref": "main"})
    return runner.take()


def copy_base(world: GitLabWithRegistry, client: RegistryClient, repository: str, tag: str = "latest") -> str:
    source = StorageSource(world.image)
    return copy_image(source, "docker.io/library/alpine", "latest", client, repository, tag)


class TestTokens:
    @staticmethod
    def claims(world: GitLabWithRegistry, scope: str, user: str, password: str) -> dict[str, Any]:
        query = {"service": "container_registry", "scope": scope}
        answer = world.server.http.get("/jwt/auth", params=query, auth=(user, password))
        assert answer.status_code == 200, answer.text
        token = answer.json()["token"]
        chain = jwt.get_unverified_header(token).get("x5c")
        if not chain and world.server.state_dir is None:  # then only the registry knows the key
            unverified: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
            return unverified
        key = x509.load_der_x509_certificate(base64.b64decode(chain[0])).public_key()
        found: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], audience="container_registry")
        return found

    @pytest.mark.embedded_only
    def test_claims(self, world: GitLabWithRegistry, project: Any) -> None:
        path = project.path_with_namespace
        claims = self.claims(world, f"repository:{path}:pull,push", world.user, world.server.token)
        assert (claims["iss"], claims["aud"], claims["sub"]) == (
            "gitlab-issuer",
            "container_registry",
            "root",
        )
        assert claims["access"] == [{"type": "repository", "name": path, "actions": ["pull", "push"]}]
        assert claims["exp"] - claims["iat"] == 300

    def test_job_may_push_to_its_own_project_only(
        self, world: GitLabWithRegistry, project: Any, other: Any, job: dict[str, Any]
    ) -> None:
        own = project.path_with_namespace
        scope = f"repository:{own}/app:pull,push repository:{other.path_with_namespace}:pull,push"
        claims = self.claims(world, scope, "gitlab-ci-token", job["token"])
        assert [entry["name"] for entry in claims["access"]] == [f"{own}/app"]

    @pytest.mark.embedded_only
    def test_unknown_project_and_odd_names_are_left_out(
        self, world: GitLabWithRegistry, project: Any
    ) -> None:
        own = project.path_with_namespace
        for scope in (
            "repository:root/nothing:pull",
            f"repository:{own}/../other:push",
            f"repository:{own.upper()}:push",
            "registry:catalog:*",
            "repository",
            f"repository:{own}:explode",
        ):
            assert self.claims(world, scope, world.user, world.server.token)["access"] == []

    def test_refusals(self, world: GitLabWithRegistry, job: dict[str, Any]) -> None:
        http, url, query = world.server.http, "/jwt/auth", {"service": "container_registry"}
        for auth in (
            (world.user, "wrong"),
            ("gitlab-ci-token", "glcbt-64_wrong"),
            ("gitlab-ci-token", world.server.token),
        ):
            assert http.get(url, params=query, auth=auth).status_code == 401
        assert http.get(url, params=query).status_code == 403
        assert http.get(url, params={"service": "other"}).status_code == 404


class TestClient:
    def test_copy_list_and_read(self, world: GitLabWithRegistry, project: Any) -> None:
        path = project.path_with_namespace
        with world.client() as client:
            digest = copy_base(world, client, f"{path}/base")
            assert client.tags(f"{path}/base") == ["latest"]
            manifest = client.manifest(f"{path}/base", "latest")
            assert manifest.digest == digest
            assert b"".join(client.blob(f"{path}/base", manifest.blobs[2])) == b"second layer"
            assert client.tags(f"{path}/nothing") == []

    def test_project_of_another_is_denied_to_a_job(
        self, world: GitLabWithRegistry, project: Any, other: Any, job: dict[str, Any]
    ) -> None:
        with world.client("gitlab-ci-token", job["token"]) as client:
            copy_base(world, client, f"{project.path_with_namespace}/app")
            with pytest.raises(WebProblem, match="is denied"):
                copy_base(world, client, other.path_with_namespace)

    def test_gitlab_lists_repositories_and_tags(self, world: GitLabWithRegistry, project: Any) -> None:
        path = project.path_with_namespace
        with world.client() as client:
            copy_base(world, client, path, "v1.0.0")
            copy_base(world, client, f"{path}/base")
        session = GitLabSession(world.server.target, "rc-00000000")
        assert session.registry_tags(project) == {path: ["v1.0.0"], f"{path}/base": ["latest"]}
        repository = next(it for it in project.repositories.list(get_all=True) if it.path == path)
        assert repository.location == f"{world.host}/{path}"
        assert repository.tags.get("v1.0.0").total_size == 3_000_012
        repository.tags.delete("v1.0.0")
        assert session.registry_tags(project) == {f"{path}/base": ["latest"]}

    def test_of_a_users_project_the_runs_images_go_and_theirs_stay(
        self, world: GitLabWithRegistry, project: Any
    ) -> None:
        path, run_id = project.path_with_namespace, f"rc-{os.urandom(4).hex()}"
        target = dataclasses.replace(world.server.target, project=path)
        asked: list[str] = []
        session = GitLabSession(target, f"{run_id}-dind", will_make=lambda kind, name: asked.append(name))
        assert session.image == f"{world.host}/{path}/{run_id}-dind"
        session.will_push()
        assert asked == [session.image]
        theirs = {path: ["v1.0.0"], f"{path}/{run_id}0": ["latest"]}
        with world.client() as client:
            for repository, tags in theirs.items():
                copy_base(world, client, repository, tags[0])
            copy_base(world, client, f"{path}/{run_id}-dind", "v1.0.0")
            copy_base(world, client, f"{path}/{run_id}-dind/base")
        assert len(made_in_gitlab(target, run_id)) == 2
        assert remove_from_gitlab(target, run_id) == []
        assert session.registry_tags(project) == theirs

    def test_what_an_accepted_build_pushes_goes_and_theirs_stays(
        self, world: GitLabWithRegistry, project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The build's own images, and the one that its job pushes to the name in its CI file."""
        monkeypatch.setattr(accepted_build, "PodRecorder", Recorder)
        path, run_id = project.path_with_namespace, f"rc-{os.urandom(4).hex()}"
        wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["builds"]}
        runner = world.server.gl.user.runners.create({**wanted, "description": "theirs"})
        token = tmp_path / "token"
        token.write_text(world.server.token)
        context = SimpleNamespace(
            run_id=run_id,
            options=ProvisionOptions(
                gitlab_url=world.server.url,
                gitlab_token_file=token,
                gitlab_ca_file=world.ca_file,
                gitlab_project=path,
            ),
            profile=load_profile("seed"),
            artifacts=SimpleNamespace(images=tuple, image_source=lambda ref: StorageSource(world.image)),
            kube=Pods(runner.id),
            will_make=lambda *named: None,
        )
        AcceptedBuild(context, RUNNER, WAY, tmp_path).make()  # type: ignore[arg-type]
        text = project.files.get(file_path=".gitlab-ci.yml", ref=run_id).decode().decode()
        pushed = re.search(r"docker push \$CI_REGISTRY_IMAGE(\S*):(\S+)", text)
        assert pushed is not None
        theirs = {path: ["v1.0.0"], f"{path}/{run_id}0": ["latest"]}
        with world.client() as client:
            for repository, tags in theirs.items():
                copy_base(world, client, repository, tags[0])
            copy_base(world, client, f"{path}{pushed[1]}", pushed[2])
        target = dataclasses.replace(world.server.target, project=path)
        assert remove_from_gitlab(target, run_id) == []
        assert GitLabSession(target, run_id).registry_tags(project) == theirs

    def test_project_with_images_is_removed(self, world: GitLabWithRegistry) -> None:
        with GitLabSession(world.server.target, f"rc-{os.urandom(4).hex()}") as session:
            image = session.registry_image
            assert image == f"{world.host}/{session.project().path_with_namespace}"
            with world.client() as client:
                copy_base(world, client, session.project().path_with_namespace)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
class TestSkopeo:
    def copy(
        self, world: GitLabWithRegistry, source: str, target: str, credentials: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [
            "skopeo", "copy", "--src-creds", credentials, "--dest-creds", credentials,
            f"docker://{world.host}/{source}", f"docker://{world.host}/{target}",
        ]  # fmt: skip
        return subprocess.run(argv, env=world.environment, capture_output=True, text=True, timeout=120)

    def test_push_and_pull_with_a_personal_token(self, world: GitLabWithRegistry, project: Any) -> None:
        path = project.path_with_namespace
        with world.client() as client:
            copy_base(world, client, f"{path}/base")
            done = self.copy(
                world, f"{path}/base:latest", f"{path}:v1.0.0", f"{world.user}:{world.server.token}"
            )
            assert done.returncode == 0, done.stderr
            assert client.tags(path) == ["v1.0.0"]

    def test_push_with_a_job_token(
        self, world: GitLabWithRegistry, project: Any, other: Any, job: dict[str, Any]
    ) -> None:
        path, credentials = project.path_with_namespace, f"gitlab-ci-token:{job['token']}"
        with world.client() as client:
            copy_base(world, client, f"{path}/base")
        done = self.copy(world, f"{path}/base:latest", f"{path}:v1.0.0", credentials)
        assert done.returncode == 0, done.stderr
        denied = self.copy(world, f"{path}/base:latest", f"{other.path_with_namespace}:v1", credentials)
        assert denied.returncode != 0
        assert "denied" in denied.stderr


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker client is not installed")
class TestDocker:
    def login(
        self, world: GitLabWithRegistry, user: str, password: str, directory: Path
    ) -> subprocess.CompletedProcess[str]:
        """`docker login` needs no engine."""
        argv = ["docker", "--config", str(directory), "login", "-u", user, "--password-stdin", world.host]
        return subprocess.run(
            argv, input=password, env=world.environment, capture_output=True, text=True, timeout=60
        )

    def test_login(self, world: GitLabWithRegistry, job: dict[str, Any], tmp_path: Path) -> None:
        for user, password in ((world.user, world.server.token), ("gitlab-ci-token", job["token"])):
            done = self.login(world, user, password, tmp_path)
            assert "Login Succeeded" in done.stdout, done.stderr

    def test_login_with_a_wrong_password(self, world: GitLabWithRegistry, tmp_path: Path) -> None:
        done = self.login(world, world.user, "wrong", tmp_path)
        assert done.returncode != 0
        assert "denied" in done.stderr or "unauthorized" in done.stderr
