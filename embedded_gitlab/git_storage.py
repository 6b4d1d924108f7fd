"""Bare git repositories, one a project: commits made through the API, refs, files."""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dulwich.index import commit_tree
from dulwich.object_store import iter_tree_contents, tree_lookup_path
from dulwich.objects import Blob, Commit
from dulwich.repo import Repo

ZERO_SHA = "0" * 40
_FILE = 0o100644
_GIT_S = 20
_NOT_IN_REFS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
_MAX_REF_BYTES = 1000
_CONFLICT = "Could not create the branch: its name is the beginning of another's, or the other way round"


class GitError(Exception):
    """A change that cannot be made; the text is GitLab's."""


@dataclass(frozen=True)
class CommitInfo:
    """What GitLab shows of a commit. ``at`` is seconds since the epoch."""

    sha: str
    parents: tuple[str, ...]
    message: str
    author_name: str
    author_email: str
    at: float

    @property
    def title(self) -> str:
        """The first line of the message."""
        return self.message.split("\n", 1)[0]


class GitStorage:
    """Repositories below one directory, by project id: no name of a user ever becomes a path."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, project_id: int) -> Path:
        """The bare repository of a project."""
        return self._directory / f"{project_id}.git"

    def create(self, project_id: int, default_branch: str) -> None:
        """An empty repository. ``refs/pipelines/*`` can be fetched by runners and pushed by nobody."""
        repository = Repo.init_bare(
            str(self.path(project_id)), mkdir=True, default_branch=default_branch.encode()
        )
        with closing(repository) as repo:
            config = repo.get_config()
            config.set((b"receive",), b"hideRefs", b"refs/pipelines")
            config.set((b"uploadpack",), b"allowAnySHA1InWant", b"true")
            config.set((b"uploadpack",), b"allowFilter", b"true")
            config.set((b"gc",), b"auto", b"0")
            config.write_to_path()

    def remove(self, project_id: int) -> None:
        """Delete a repository."""
        shutil.rmtree(self.path(project_id), ignore_errors=True)

    def heads(self, project_id: int, kind: str = "heads") -> dict[str, str]:
        """Branches (or ``tags``) and the commits they point to."""
        with closing(self._open(project_id)) as repo:
            found = repo.refs.as_dict(f"refs/{kind}".encode())
            return {
                name.decode("utf-8", "replace"): _target(repo, sha) for name, sha in sorted(found.items())
            }

    def resolve(self, project_id: int, ref: str) -> tuple[str, str, bool] | None:
        """``(short name, commit, is a tag)`` of a branch or tag given by short or full name."""
        for prefix, kind, tag in (("refs/heads/", "heads", False), ("refs/tags/", "tags", True)):
            name = ref.removeprefix(prefix)
            if name.startswith("refs/"):
                continue
            sha = self.heads(project_id, kind).get(name)
            if sha:
                return name, sha, tag
        return None

    def commit_info(self, project_id: int, sha: str) -> CommitInfo | None:
        """A commit by its full or abbreviated id, or None."""
        if not 7 <= len(sha) <= 40 or any(char not in "0123456789abcdef" for char in sha):
            return None
        with closing(self._open(project_id)) as repo:
            try:
                if len(sha) < 40:
                    sha = next(iter(repo.object_store.iter_prefix(sha.encode()))).decode()
                commit = repo[sha.encode()]
            except (KeyError, StopIteration):
                return None
            return _info(commit) if isinstance(commit, Commit) else None

    def lines_changed(self, project_id: int, sha: str) -> tuple[int, int]:
        """How many lines a commit added and deleted; binary files count as none."""
        with closing(self._open(project_id)) as repo:
            argv = ["git", "-C", repo.path, "diff-tree", "--numstat", "--root", "--no-commit-id", "-r", sha]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_GIT_S, check=False)
        counts = [line.split("\t")[:2] for line in done.stdout.splitlines()]
        numbers = [(int(added), int(gone)) for added, gone in counts if added.isdigit()]
        return sum(added for added, _ in numbers), sum(gone for _, gone in numbers)

    def file(self, project_id: int, sha: str, path: str) -> tuple[int, str, bytes] | None:
        """``(mode, blob id, content)`` of a file at a commit, or None."""
        with closing(self._open(project_id)) as repo:
            try:
                mode, blob_id = tree_lookup_path(repo.__getitem__, repo[sha.encode()].tree, path.encode())
                blob = repo[blob_id]
            except (KeyError, NotADirectoryError, ValueError):
                return None
            return (mode, blob_id.decode(), blob.as_raw_string()) if isinstance(blob, Blob) else None

    def files(self, project_id: int, sha: str) -> list[tuple[str, int, str]]:
        """Every file at a commit: ``(path, mode, blob id)``."""
        with closing(self._open(project_id)) as repo:
            entries = iter_tree_contents(repo.object_store, repo[sha.encode()].tree)
            return [(e.path.decode("utf-8", "replace"), e.mode, e.sha.decode()) for e in entries]

    def set_ref(self, project_id: int, name: str, sha: str | None) -> None:
        """Point a full ref name at a commit, or remove it."""
        with closing(self._open(project_id)) as repo:
            if sha is None:
                repo.refs.remove_if_equals(name.encode(), None)
            else:
                repo.refs[name.encode()] = sha.encode()

    def commit(
        self,
        project_id: int,
        branch: str,
        message: str,
        author: tuple[str, str],
        actions: Sequence[Mapping[str, Any]],
        start: str | None = None,
    ) -> tuple[CommitInfo, str]:
        """One commit with all ``actions`` on ``branch``; the commit and the branch's commit before.

        Raises GitError with GitLab's words, and then nothing has changed.
        """
        ref = f"refs/heads/{branch}".encode()
        if not valid_branch(branch):
            raise GitError("Branch name is invalid")
        with closing(self._open(project_id)) as repo:
            before = repo.refs.as_dict(b"refs/heads").get(branch.encode())
            parent = before
            if parent is None:
                found = self.resolve(project_id, start) if start else None
                parent = found[1].encode() if found else None
                if parent is None and (start or repo.refs.as_dict(b"refs/heads")):
                    raise GitError("You can only create or edit files when you are on a branch")
            files: dict[bytes, tuple[int, bytes]] = {}
            if parent is not None:
                entries = iter_tree_contents(repo.object_store, repo[parent].tree)
                files = {entry.path: (entry.mode, entry.sha) for entry in entries}
            for action in actions:
                _apply(repo, files, action)
            commit = Commit()
            commit.tree = commit_tree(repo.object_store, [(p, s, m) for p, (m, s) in files.items()])
            commit.parents = [parent] if parent else []
            name, email = (re.sub(r"[<>\n\0]", "", part) for part in author)
            commit.author = commit.committer = f"{name} <{email}>".encode()
            commit.author_time = commit.commit_time = int(time.time())
            commit.author_timezone = commit.commit_timezone = 0
            commit.message = message.replace("\0", "").encode()
            repo.object_store.add_object(commit)
            try:
                moved = repo.refs.set_if_equals(ref, before, commit.id)
            except OSError:
                raise GitError(_CONFLICT) from None
            if not moved:
                raise GitError("Could not update branch. Please refresh and try again.")
            return _info(commit), (before or ZERO_SHA.encode()).decode()

    def _open(self, project_id: int) -> Repo:
        return Repo(str(self.path(project_id)))


def valid_branch(name: str) -> bool:
    """Whether ``name`` may be a branch: git-check-ref-format(1) and Gitlab::GitRefValidator."""
    if name in ("", "@", "HEAD") or name.startswith(("-", "refs/heads/", "refs/remotes/", "refs/tags/")):
        return False
    if name.endswith(".") or any(bad in name for bad in ("..", "@{", "//")) or _NOT_IN_REFS.search(name):
        return False
    parts = name.split("/")
    return len(name.encode()) <= _MAX_REF_BYTES and all(
        part and not part.startswith(".") and not part.endswith(".lock") and len(part.encode()) <= 200
        for part in parts
    )


def valid_path(path: str) -> bool:
    """Whether ``path`` may name a file in a repository: relative, no ``..``, nothing inside ``.git``."""
    parts = path.split("/")
    if not path or len(path) > 4096 or any(ord(char) < 32 for char in path):
        return False
    return all(part not in ("", ".", "..") and part.lower().rstrip(". ") != ".git" for part in parts)


def _apply(repo: Repo, files: dict[bytes, tuple[int, bytes]], action: Mapping[str, Any]) -> None:
    kind, name = str(action.get("action")), str(action.get("file_path", ""))
    if not valid_path(name):
        raise GitError("Path cannot include directory traversal")
    path = name.encode()
    if kind == "create" and path in files:
        raise GitError("A file with this name already exists")
    if kind != "create" and path not in files:
        raise GitError("A file with this name doesn't exist")
    if kind == "delete":
        del files[path]
        return
    mode = files.get(path, (_FILE, b""))[0]
    for other in files:
        if path.startswith(other + b"/") or (other.startswith(path + b"/")):
            raise GitError("A directory with this name already exists")
    blob = Blob.from_string(_content(action))
    repo.object_store.add_object(blob)
    files[path] = (mode, blob.id)


def _content(action: Mapping[str, Any]) -> bytes:
    content = action.get("content") or ""
    if not isinstance(content, str):
        raise GitError("content is invalid")
    if action.get("encoding", "text") == "base64":
        try:
            return base64.b64decode(content)
        except (binascii.Error, ValueError):
            raise GitError("invalid base64") from None
    return content.encode()


def _target(repo: Repo, sha: bytes) -> str:
    found = repo[sha]
    while found.type_name == b"tag":
        sha = found.object[1]
        found = repo[sha]
    return sha.decode()


def _info(commit: Commit) -> CommitInfo:
    name, _, email = commit.author.decode("utf-8", "replace").partition(" <")
    return CommitInfo(
        commit.id.decode(),
        tuple(parent.decode() for parent in commit.parents),
        commit.message.decode("utf-8", "replace"),
        name,
        email.rstrip(">"),
        float(commit.commit_time),
    )
