"""The command line: register, verify, unregister, list, run, --version."""

import os
import socket
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from . import REVISION, VERSION, config, log, template
from .config import KUBERNETES_TYPES, SECURITY_CONTEXTS, Table
from .network import GitLab
from .runner import Run

_FALSE = {"0", "f", "false"}
_TRUE = {"1", "t", "true"}

# Flag → environment variable. Flags without "=value" in _SWITCHES take none.
_REGISTER_FLAGS = {
    "config": "CONFIG_FILE",
    "template-config": "TEMPLATE_CONFIG_FILE",
    "tag-list": "RUNNER_TAG_LIST",
    "non-interactive": "REGISTER_NON_INTERACTIVE",
    "leave-runner": "REGISTER_LEAVE_RUNNER",
    "registration-token": "REGISTRATION_TOKEN",
    "run-untagged": "REGISTER_RUN_UNTAGGED",
    "locked": "REGISTER_LOCKED",
    "access-level": "REGISTER_ACCESS_LEVEL",
    "maximum-timeout": "REGISTER_MAXIMUM_TIMEOUT",
    "paused": "REGISTER_PAUSED",
    "maintenance-note": "REGISTER_MAINTENANCE_NOTE",
    "name": "RUNNER_NAME",
    "limit": "RUNNER_LIMIT",
    "output-limit": "RUNNER_OUTPUT_LIMIT",
    "request-concurrency": "RUNNER_REQUEST_CONCURRENCY",
    "url": "CI_SERVER_URL",
    "token": "CI_SERVER_TOKEN",
    "tls-ca-file": "CI_SERVER_TLS_CA_FILE",
    "executor": "RUNNER_EXECUTOR",
    "builds-dir": "RUNNER_BUILDS_DIR",
    "clone-url": "CLONE_URL",
    "env": "RUNNER_ENV",
    "shell": "RUNNER_SHELL",
}
_SWITCHES = {
    "non-interactive",
    "leave-runner",
    "run-untagged",
    "locked",
    "paused",
    "all-runners",
    "delete",
    "debug",
}
_SHORT = {"c": "config", "n": "non-interactive", "r": "registration-token", "t": "token", "u": "url"}
_RUNNER_KEYS = {"name": "name", "output-limit": "output_limit", "request-concurrency": "request_concurrency"}
_RUNNER_KEYS |= {
    "limit": "limit",
    "tls-ca-file": "tls-ca-file",
    "builds-dir": "builds_dir",
    "clone-url": "clone_url",
}
_INTEGERS = {"limit", "output-limit", "request-concurrency"}
_RESERVED = (
    "Runner configuration other than name and executor configuration is reserved and cannot be specified "
    "when registering with a runner token. This configuration is specified on the GitLab server. "
    "Please try again without specifying those arguments."
)
_DEPRECATED = (
    "Support for registration tokens and runner parameters in the 'register' command has been deprecated in "
    "GitLab Runner 15.6 and will be replaced with support for authentication tokens. "
    "For more information, see https://gitlab.com/gitlab-org/gitlab/-/issues/380872"
)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    arguments = list(argv)
    while arguments and arguments[0] in ("--debug", "--log-level", "--log-format", "-l"):
        del arguments[: 1 if arguments[0] == "--debug" else 2]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        sys.stdout.write(_help())
        return 0
    command, *rest = arguments
    if command in ("--version", "-v"):
        python = f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        sys.stdout.write(
            f"Version:      {VERSION}\nGit revision: {REVISION}\nGit branch:   stand-in\n"
            f"GO version:   {python}\nBuilt:        unknown\nOS/Arch:      linux/amd64\n"
        )
        return 0
    if command not in _COMMANDS:
        log.log("FATAL", f"Command {command} not found.")
        return 1
    fields: dict[str, object] = {"arch": "amd64", "os": "linux", "pid": os.getpid()}
    log.info("Runtime platform", fields | {"revision": REVISION, "version": VERSION})
    flags = parse(rest)
    path = Path(flags.get("config") or os.environ.get("CONFIG_FILE") or config.default_path())
    return _COMMANDS[command](path, flags)


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Flags as urfave/cli takes them: `--flag value`, `--flag=value`, switches with or without `=false`."""
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        name = {"description": "name"}.get(_SHORT.get(name, name), _SHORT.get(name, name))
        if not argument.startswith("-"):
            continue
        if name in _SWITCHES:
            flags[name] = value if equals else "true"
        elif equals:
            flags[name] = value
        elif rest:
            flags[name] = rest.pop(0)
        else:
            fail("FATAL", f"flag needs an argument: -{name}")
    return flags


def fail(level: str, message: str, fields: Mapping[str, object] | None = None) -> NoReturn:
    """Log and exit 1, as FATAL and PANIC both do."""
    log.log(level, message, fields)
    raise SystemExit(1)


def mode(*, starts: bool = True) -> None:
    """Say whether this is system-mode (root) or user-mode; `starts`: the command is not `run`."""
    if os.geteuid() == 0:
        log.info("Running in system-mode.")
    else:
        log.warning("Running in user-mode.")
        if starts:
            log.warning("The user-mode requires you to manually start builds processing:")
            log.warning("$ gitlab-runner run")
        log.warning("Use sudo for system-mode:")
        log.warning("$ sudo gitlab-runner...")
    log.info("")


def load(path: Path) -> Table:
    """config.toml, or an empty configuration when there is none."""
    try:
        return config.load(path)
    except FileNotFoundError:
        return {"runners": [], "concurrent": 1}
    except tomllib.TOMLDecodeError as error:
        fail("FATAL", f"Failed to load config {error}")


# register


def register(path: Path, flags: dict[str, str]) -> int:
    """Register one runner and add it to config.toml."""
    mode()
    given = {flag: os.environ[env] for flag, env in _REGISTER_FLAGS.items() if os.environ.get(env)} | flags
    settings = load(path)
    system = config.system_id(path)
    runner = _wished_runner(given)
    _merge_template(runner, given.get("template-config", ""))
    if not runner.get("url"):
        fail("PANIC", "The url needs to be entered")
    client = GitLab(runner["url"], runner.get("tls-ca-file", ""))
    token = given.get("token") or given.get("registration-token") or ""
    if not token:
        fail("PANIC", "The registration-token needs to be entered")
    _obtain_token(client, runner, token, given, system)
    if given.get("executor") != "kubernetes":
        log.log("PANIC", "Invalid executor specified")
        if not _truth(given.get("leave-runner", "")):
            client.unregister(runner["token"], system)
        raise SystemExit(1)
    runner["executor"] = "kubernetes"
    runner["cache"] = {"MaxUploadedArchiveSize": 0} | runner.get("cache", {})
    kubernetes = runner.setdefault("kubernetes", {})
    for key in SECURITY_CONTEXTS:
        kubernetes.setdefault(key, {})
    settings["runners"].append(runner)
    config.save(settings, path)
    log.info(
        "Runner registered successfully. Feel free to start it, but if it's running already the config "
        "should be automatically reloaded!\n"
    )
    log.info(f'Configuration (with the authentication token) was saved in "{path}"')
    return 0


def _wished_runner(given: Mapping[str, str]) -> Table:
    runner: Table = {"name": given.get("name") or socket.gethostname(), "url": given.get("url", "")}
    for flag, key in _RUNNER_KEYS.items():
        if given.get(flag):
            runner[key] = int(given[flag]) if flag in _INTEGERS else given[flag]
    if given.get("env"):
        runner["environment"] = [given["env"]]
    kubernetes: Table = {}
    for key, kind in KUBERNETES_TYPES.items():
        value = os.environ.get(f"KUBERNETES_{key.upper()}", "")
        value = given.get("kubernetes-" + key, given.get("kubernetes-" + key.replace("_", "-"), value))
        if value and kind in (str, int, bool, list):
            kubernetes[key] = _truth(value) if kind is bool else [value] if kind is list else kind(value)
    return runner | ({"kubernetes": kubernetes} if kubernetes else {})


def _merge_template(runner: Table, path: str) -> None:
    if not path:
        return
    log.info(f'Merging configuration from template file "{path}"')
    problem = "Could not handle configuration merging from template file"
    try:
        entry = template.read(path)
    except template.TemplateError as error:
        fail("FATAL", problem, {"error": error})
    config.merge(runner, entry)


def _obtain_token(client: GitLab, runner: Table, token: str, given: Mapping[str, str], system: str) -> None:
    if token.startswith("glrt-"):
        valid, identity, _ = client.verify(token, system)
        if not valid or not identity:
            fail("PANIC", "Failed to verify the runner.")
        if _reserved_given(given):
            fail("FATAL", _RESERVED)
    elif given.get("token"):
        log.info("Token specified trying to verify runner...")
        log.warning("If you want to register use the '-r' instead of '-t'.")
        identity = 0  # recorded: what GitLab answers is not kept in this case
        if not client.verify(token, system)[0]:
            fail("PANIC", "Failed to verify the runner.")
    else:
        log.warning(_DEPRECATED)
        answer = client.register(token, _legacy_wishes(runner, given))
        if answer is None:
            fail("PANIC", "Failed to register the runner.")
        token, identity = answer["token"], answer["id"]
    never = datetime(1, 1, 1, tzinfo=UTC)
    now = datetime.now(UTC).replace(microsecond=0)
    runner |= {"id": identity, "token": token, "token_obtained_at": now if identity else never}
    runner["token_expires_at"] = never


def _reserved_given(given: Mapping[str, str]) -> bool:
    words = any(given.get(flag) for flag in ("tag-list", "access-level", "maintenance-note"))
    switches = _truth(given.get("run-untagged", "")) or _truth(given.get("paused", ""))
    unlocked = given.get("locked", "true").lower() in _FALSE
    return words or switches or unlocked or int(given.get("maximum-timeout") or 0) != 0


def _legacy_wishes(runner: Table, given: Mapping[str, str]) -> dict[str, Any]:
    tags = given.get("tag-list", "")
    wishes: dict[str, Any] = {"description": runner["name"]} | ({"tag_list": tags} if tags else {})
    wishes["run_untagged"] = _truth(given["run-untagged"]) if "run-untagged" in given else not tags
    wishes["locked"] = given.get("locked", "true").lower() not in _FALSE
    wishes |= {"access_level": given["access-level"]} if given.get("access-level") else {}
    wishes |= {"maximum_timeout": int(given["maximum-timeout"])} if given.get("maximum-timeout") else {}
    wishes["paused"] = _truth(given.get("paused", ""))
    return wishes | ({"maintenance_note": given["maintenance-note"]} if given.get("maintenance-note") else {})


def _truth(value: str) -> bool:
    return value.lower() in _TRUE


# The other commands


def verify(path: Path, flags: dict[str, str]) -> int:
    """Ask GitLab about every runner (or the named one); --delete drops the invalid ones from config.toml."""
    mode()
    settings = load(path)
    system = config.system_id(path)
    bad = []
    for runner in _chosen(settings, flags):
        valid, _, _ = GitLab(runner["url"], runner.get("tls-ca-file", "")).verify(runner["token"], system)
        if valid is False:
            bad.append(runner)
    if bad and "delete" not in flags:
        fail("FATAL", "Failed to verify runners")
    if bad:
        _write_without(settings, bad, path)
    return 0


def unregister(path: Path, flags: dict[str, str]) -> int:
    """Unregister all runners, or those of a name, URL or token; a refusal is logged, exit code 0."""
    mode()
    settings = load(path)
    system = config.system_id(path)
    if flags.get("all-runners"):
        log.warning("Unregistering all runners")
    elif flags.get("url") and flags.get("token") and not _chosen(settings, flags):
        GitLab(flags["url"]).unregister(flags["token"], system)
        return 0
    elif not any(flags.get(key) for key in ("name", "token")):
        fail("FATAL", "at least one of '--token', '--url', or '--name' must be specified")
    gone = []
    for runner in _chosen(settings, flags):
        if GitLab(runner["url"], runner.get("tls-ca-file", "")).unregister(runner["token"], system):
            gone.append(runner)
        else:
            log.error(f"Failed to unregister runner {runner['name']}")
    if gone:
        _write_without(settings, gone, path)
    return 0


def _chosen(settings: Table, flags: Mapping[str, str]) -> list[Table]:
    wanted = {key: flags[key] for key in ("name", "token", "url") if flags.get(key)}
    return [r for r in settings["runners"] if all(r.get(key) == value for key, value in wanted.items())]


def _write_without(settings: Table, gone: Sequence[Table], path: Path) -> None:
    settings["runners"] = [runner for runner in settings["runners"] if runner not in gone]
    config.save(settings, path)
    log.info(f"Updated {path}")


def list_runners(path: Path, _flags: dict[str, str]) -> int:
    """List config.toml's runners on stderr, tokens included (as the real one does)."""
    settings = load(path)
    config.system_id(path)
    log.info("Listing configured runners", {"ConfigFile": path})
    for runner in settings["runners"]:
        shown = {"Executor": runner["executor"], "Token": runner["token"], "URL": runner["url"]}
        log.info(runner["name"], shown)
    return 0


def run(path: Path, _flags: dict[str, str]) -> int:
    """Process jobs until a signal comes."""
    return Run(path).main(lambda: mode(starts=False))


_COMMANDS: dict[str, Callable[[Path, dict[str, str]], int]] = {
    "list": list_runners,
    "run": run,
    "register": register,
    "unregister": unregister,
    "verify": verify,
}


def _help() -> str:
    commands = "\n".join(f"   {name}" for name in _COMMANDS)
    return (
        "NAME:\n   gitlab-runner - a GitLab Runner (stand-in)\n\nUSAGE:\n"
        "   gitlab-runner [global options] command [command options] [arguments...]\n\n"
        f"VERSION:\n   {VERSION} ({REVISION})\n\nCOMMANDS:\n{commands}\n"
    )
