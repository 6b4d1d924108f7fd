"""Objects in the shapes that GitLab's API v4 gives them."""

from __future__ import annotations

import json
from typing import Any

from embedded_gitlab import variables
from embedded_gitlab.context import Context
from embedded_gitlab.git_storage import CommitInfo
from embedded_gitlab.settings import Settings
from embedded_gitlab.store import Row, iso, now

Shape = dict[str, Any]


def user(context: Context, row: Row | None) -> Shape | None:
    """The short form of a user."""
    if row is None:
        return None
    return {
        "id": row["id"],
        "username": row["username"],
        "public_email": None,
        "name": row["name"],
        "state": "active",
        "locked": False,
        "avatar_url": None,
        "web_url": context.url(row["username"]),
    }


def profile(context: Context, row: Row) -> Shape:
    """A user with what they tell of themselves, which here is nothing."""
    shape = user(context, row) or {}
    shape.update(dict.fromkeys(("bio", "linkedin", "twitter", "discord", "website_url", "github"), ""))
    shape.update(dict.fromkeys(("location", "pronouns", "work_information", "local_time")))
    shape.update(job_title="", organization="", followers=0, following=0, bot=False)
    shape.update(created_at=iso(row["created_at"]))
    return shape


def current_user(context: Context, row: Row) -> Shape:
    """GET /user."""
    shape = profile(context, row)
    shape.update(
        email=row["email"],
        commit_email=row["email"],
        confirmed_at=iso(row["created_at"]),
        identities=[],
        namespace_id=row["id"],
        can_create_project=True,
        projects_limit=100000,
        **dict.fromkeys(("last_sign_in_at", "current_sign_in_at", "last_activity_on")),
        **dict.fromkeys(("private_profile", "external", "two_factor_enabled", "can_create_group"), False),
    )
    if row["admin"]:
        shape["is_admin"] = True
    return shape


def _id_of_user(context: Context, user_id: int | None) -> Shape | None:
    return user(context, context.store.one("SELECT * FROM users WHERE id = ?", user_id))


def project_basic(context: Context, row: Row) -> Shape:
    """The part of a project that other objects carry."""
    owner = context.store.get("users", row["owner_id"])
    url, namespace = context.url(row["full_path"]), row["full_path"].rpartition("/")[0]
    return {
        "id": row["id"],
        "description": row["description"],
        "name": row["name"],
        "name_with_namespace": f"{namespace} / {row['name']}",
        "path": row["path"],
        "path_with_namespace": row["full_path"],
        "created_at": iso(row["created_at"]),
        "default_branch": row["default_branch"] if context.git.heads(row["id"]) else None,
        "tag_list": [],
        "topics": [],
        "ssh_url_to_repo": f"git@{context.settings.host}:{row['full_path']}.git",
        "http_url_to_repo": f"{url}.git",
        "web_url": url,
        "readme_url": None,
        "forks_count": 0,
        "avatar_url": None,
        "star_count": 0,
        "last_activity_at": iso(row["created_at"]),
        "visibility": row["visibility"],
        "namespace": {
            "id": owner["id"],
            "name": owner["name"],
            "path": owner["username"],
            "kind": "user",
            "full_path": owner["username"],
            "parent_id": None,
            "avatar_url": None,
            "web_url": context.url(owner["username"]),
        },
    }


_ABSENT_FEATURES = ("issues", "merge_requests", "wiki", "snippets", "packages", "service_desk", "lfs")


def project(context: Context, row: Row, *, secrets: bool) -> Shape:
    """A project; ``secrets`` adds what only a maintainer sees."""
    owner = context.store.get("users", row["owner_id"])
    shape = project_basic(context, row)
    shape.update({f"{feature}_enabled": False for feature in _ABSENT_FEATURES})
    shape.update(
        archived=False,
        updated_at=iso(row["created_at"]),
        empty_repo=not context.git.heads(row["id"]),
        repository_object_format="sha1",
        shared_with_groups=[],
        owner=user(context, owner),
        creator_id=owner["id"],
        import_status="none",
        jobs_enabled=True,
        builds_access_level="enabled",
        container_registry_enabled=context.settings.registry_host is not None,
        container_registry_access_level="enabled" if context.settings.registry_host else "disabled",
        shared_runners_enabled=bool(row["shared_runners_enabled"]),
        ci_config_path=None,
        ci_default_git_depth=20,
        build_timeout=row["build_timeout"],
        marked_for_deletion_at=None,
        marked_for_deletion_on=None,
        permissions={"project_access": {"access_level": 50, "notification_level": 3}, "group_access": None},
        _links={"self": context.url(f"api/v4/projects/{row['id']}")},
    )
    if context.settings.registry_host:
        shape["container_registry_image_prefix"] = variables.registry_image(context, row)
    if secrets:
        shape["runners_token"] = row["runners_token"]
    return shape


def project_variable(row: Row) -> Shape:
    """A CI/CD variable of a project."""
    flags = {key: bool(row[key]) for key in ("masked", "protected", "raw")}
    kept = ("key", "value", "variable_type", "environment_scope", "description")
    return {**{key: row[key] for key in kept}, **flags, "hidden": False}


def runner_status(settings: Settings, row: Row) -> str:
    """``online``, ``offline``, ``stale`` or ``never_contacted``, of a runner or a manager."""
    if row["contacted_at"] is None:
        return "stale" if now() - row["created_at"] > settings.stale_s else "never_contacted"
    silent = now() - row["contacted_at"]
    return "online" if silent <= settings.online_s else "offline" if silent <= settings.stale_s else "stale"


def runner(context: Context, row: Row) -> Shape:
    """A runner in a list."""
    status = runner_status(context.settings, row)
    manager = _latest_manager(context, row)
    return {
        "id": row["id"],
        "description": row["description"],
        "ip_address": manager["ip_address"] if manager else None,
        "active": not row["paused"],
        "paused": bool(row["paused"]),
        "is_shared": row["runner_type"] == "instance_type",
        "runner_type": row["runner_type"],
        "name": "gitlab-runner" if manager else None,
        "online": status == "online" if row["contacted_at"] else None,
        "created_at": iso(row["created_at"]),
        "created_by": _id_of_user(context, row["creator_id"]),
        "status": status,
        "job_execution_status": "active" if _busy(context, row) else "idle",
    }


def runner_details(context: Context, row: Row) -> Shape:
    """One runner."""
    manager = _latest_manager(context, row) or {}
    owned = context.store.all(
        """SELECT p.* FROM projects p JOIN runner_projects rp ON rp.project_id = p.id
           WHERE rp.runner_id = ? ORDER BY p.id""",
        row["id"],
    )
    return {
        **runner(context, row),
        "tag_list": json.loads(row["tag_list"]),
        "run_untagged": bool(row["run_untagged"]),
        "locked": bool(row["locked"]),
        "maximum_timeout": row["maximum_timeout"],
        "access_level": row["access_level"],
        "maintenance_note": row["maintenance_note"] or None,
        "version": manager.get("version"),
        "revision": manager.get("revision"),
        "platform": manager.get("platform"),
        "architecture": manager.get("architecture"),
        "contacted_at": iso(row["contacted_at"]),
        "projects": [project_basic(context, item) for item in owned],
        "groups": [],
    }


def manager(settings: Settings, row: Row) -> Shape:
    """One of the processes that use a runner's token."""
    kept = ("id", "system_id", "version", "revision", "platform", "architecture", "ip_address")
    return {
        **{key: row[key] for key in kept},
        "created_at": iso(row["created_at"]),
        "contacted_at": iso(row["contacted_at"]),
        "status": runner_status(settings, row),
        "job_execution_status": "idle",
    }


def _latest_manager(context: Context, row: Row) -> Row | None:
    return context.store.one(
        "SELECT * FROM runner_managers WHERE runner_id = ? ORDER BY contacted_at DESC, id DESC", row["id"]
    )


def _busy(context: Context, row: Row) -> bool:
    sql = "SELECT 1 FROM jobs WHERE runner_id = ? AND status IN ('running', 'canceling')"
    return context.store.one(sql, row["id"]) is not None


def pipeline(context: Context, row: Row, *, full: bool = False) -> Shape:
    """A pipeline in a list, or with ``full`` one by itself."""
    owner = context.store.get("projects", row["project_id"])
    shape: Shape = {
        "id": row["id"],
        "iid": row["iid"],
        "project_id": row["project_id"],
        "sha": row["sha"],
        "ref": row["ref"],
        "status": row["status"],
        "source": row["source"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "web_url": f"{context.url(owner['full_path'])}/-/pipelines/{row['id']}",
        "name": None,
    }
    if full:
        duration = (row["finished_at"] or 0) - (row["started_at"] or 0) if row["finished_at"] else None
        shape.update(
            before_sha=row["before_sha"] or "0" * 40,
            tag=bool(row["tag"]),
            yaml_errors=row["yaml_errors"],
            user=_id_of_user(context, row["user_id"]),
            started_at=iso(row["started_at"]),
            finished_at=iso(row["finished_at"]),
            committed_at=None,
            duration=round(duration) if duration is not None and row["started_at"] else None,
            queued_duration=round(row["started_at"] - row["created_at"]) if row["started_at"] else None,
            coverage=None,
            detailed_status=_detailed(row["status"], f"/{owner['full_path']}/-/pipelines/{row['id']}"),
            archived=False,
        )
    return shape


def _detailed(status: str, path: str) -> Shape:
    label = {"success": "passed"}.get(status, status)
    return {
        "icon": f"status_{status}",
        "text": label.capitalize(),
        "label": label,
        "group": status,
        "tooltip": label,
        "has_details": True,
        "details_path": path,
        "illustration": None,
        "favicon": f"/assets/ci_favicons/favicon_status_{status}.png",
    }


def job(context: Context, row: Row) -> Shape:
    """A job."""
    starter = context.store.one("SELECT * FROM users WHERE id = ?", row["user_id"])
    owner = context.store.get("projects", row["project_id"])
    parent = context.store.get("pipelines", row["pipeline_id"])
    commit_info = context.git.commit_info(row["project_id"], parent["sha"])
    taker = context.store.one("SELECT * FROM runners WHERE id = ?", row["runner_id"])
    machine = context.store.one("SELECT * FROM runner_managers WHERE id = ?", row["manager_id"])
    end = row["finished_at"] or now()
    short = pipeline(context, parent)
    return {
        "id": row["id"],
        "status": row["status"],
        "stage": row["stage"],
        "name": row["name"],
        "ref": parent["ref"],
        "tag": bool(parent["tag"]),
        "coverage": None,
        "allow_failure": bool(row["allow_failure"]),
        "created_at": iso(row["created_at"]),
        "started_at": iso(row["started_at"]),
        "finished_at": iso(row["finished_at"]),
        "erased_at": iso(row["erased_at"]),
        "duration": round(end - row["started_at"], 6) if row["started_at"] else None,
        "queued_duration": round((row["started_at"] or end) - row["queued_at"], 6)
        if row["queued_at"]
        else None,
        **({"failure_reason": row["failure_reason"]} if row["failure_reason"] else {}),
        "user": profile(context, starter) if starter else None,
        "commit": commit(context, owner, commit_info) if commit_info else None,
        "pipeline": {key: value for key, value in short.items() if key != "name"},
        "web_url": f"{context.url(owner['full_path'])}/-/jobs/{row['id']}",
        "project": {"ci_job_token_scope_enabled": False},
        "artifacts": [],
        "runner": runner(context, taker) if taker else None,
        "runner_manager": manager(context.settings, machine) if machine else None,
        "artifacts_expire_at": None,
        "archived": False,
        "tag_list": json.loads(row["tag_list"]),
    }


def commit_detail(context: Context, owner: Row, info: CommitInfo) -> Shape:
    """A commit by itself: with its pipeline and how many lines it changed."""
    last = context.store.one(
        "SELECT * FROM pipelines WHERE project_id = ? AND sha = ? ORDER BY id DESC", owner["id"], info.sha
    )
    added, deleted = context.git.lines_changed(owner["id"], info.sha)
    return {
        **commit(context, owner, info),
        "stats": {"additions": added, "deletions": deleted, "total": added + deleted},
        "status": last["status"] if last else None,
        "project_id": owner["id"],
        "last_pipeline": pipeline(context, last) if last else None,
    }


def commit(context: Context, owner: Row, info: CommitInfo) -> Shape:
    """A commit."""
    return {
        "id": info.sha,
        "short_id": info.sha[:8],
        "created_at": iso(info.at),
        "parent_ids": list(info.parents),
        "title": info.title,
        "message": info.message,
        "author_name": info.author_name,
        "author_email": info.author_email,
        "authored_date": iso(info.at),
        "committer_name": info.author_name,
        "committer_email": info.author_email,
        "committed_date": iso(info.at),
        "trailers": {},
        "extended_trailers": {},
        "web_url": f"{context.url(owner['full_path'])}/-/commit/{info.sha}",
    }
