"""The scripts of a job's stages, for whatever shell the containers have (bash, ash, dash)."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from . import VERSION, words
from .variables import Variables, project_dir

_SHELLS = words(
    "/usr/local/bin/bash /usr/bin/bash /bin/bash /usr/local/bin/sh /usr/bin/sh /bin/sh /busybox/sh"
)
GREEN, END = "\x1b[32;1m", "\x1b[0;m"


def detect(arguments: str = "") -> str:
    """Shell text that becomes the first shell found: main process of build and helper, and of each exec."""
    tests = "\nel".join(f"if [ -x {shell} ]; then\n\texec {shell} {arguments}" for shell in _SHELLS)
    return f"{tests}\nelse\n\techo shell not found\n\texit 1\nfi\n\n"


def save(path: str, content: str) -> str:
    """Shell text that writes a file using nothing but builtins (the image may have no more than a shell)."""
    return f"printf '%s' {shlex.quote(content)} > {path}\n"


def launcher() -> str:
    """The file that runs a stage's script with the best shell at hand: `sh launcher script`."""
    return detect('"$1"')


def run(directory: str, logs: str, stage: str) -> str:
    """What is typed into the attached shell: run a saved stage in the background, output to the log file."""
    script = f"{directory}/{stage}"
    return f"sh {directory}/launcher {script} < /dev/null >> {logs}/output.log 2>&1 &\n"


def stage_script(path: str, body: str, *, debug: bool = False) -> str:
    """Wrap a stage: stop at the first error; at exit write the line that tells the runner the exit code."""
    result = json.dumps({"command_exit_code": 0, "script": path}).replace("0,", "$exit_code,", 1)
    escaped = result.replace('"', '\\"')
    return (
        "runner_script_trap() {\n  exit_code=$?\n"
        f'  out_json="{escaped}"\n'
        '  echo ""\n  echo "$out_json"\n  exit 0\n}\ntrap runner_script_trap EXIT\n'
        "if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit\nset +o noclobber\n"
        + ("set -o xtrace\n" if debug else "")
        + f": | eval {shlex.quote(body)}\nexit 0\n"
    )


def exports(variables: Variables, status: str = "running") -> str:
    """Export every variable; file variables are written first, below the project's temporary directory."""
    lines, directory = [], variables.get("RUNNER_TEMP_PROJECT_DIR")
    for item in variables.overwritten("CI_JOB_STATUS", status):
        value = item.value
        if item.file:
            path = f"{directory}/{item.key}"
            lines += [f"mkdir -p {shlex.quote(directory)}", save(shlex.quote(path), value).rstrip("\n")]
            value = path
        lines.append(f"export {item.key}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"


def say(text: str) -> str:
    """Print one green line."""
    return f"printf '%s\\n' {shlex.quote(GREEN + text + END)}\n"


def prepare(host: str) -> str:
    """The first script in the pod."""
    return f'echo "Running on $(hostname) via {host}..."\n'


def get_sources(job: Mapping[str, Any], variables: Variables) -> str:
    """Fetch and check out; any git error ends the stage with exit code 1, as recorded."""
    git, directory = job["git_info"], shlex.quote(project_dir(job, variables.get("CI_BUILDS_DIR")))
    strategy = variables.get("GIT_STRATEGY") or ("fetch" if job.get("allow_git_fetch", True) else "clone")
    text = exports(variables) + "umask 0000\n"
    if strategy == "none":
        text += f"mkdir -p {directory}\n" + say("Skipping Git repository setup")
    else:
        text += _fetch(git, directory, variables, fresh=strategy == "clone")
    if strategy == "none" or variables.get("GIT_CHECKOUT") == "false":
        text += say("Skipping Git checkout")
    else:
        sha = git["sha"]
        text += say(f"Checking out {sha[:8]} as detached HEAD (ref is {git['ref']})...")
        text += f"git checkout -f -q {shlex.quote(sha)} || exit 1\ngit clean -ffdx || exit 1\n"
    return text + say("Skipping Git submodules setup")


def _fetch(git: Mapping[str, Any], directory: str, variables: Variables, *, fresh: bool) -> str:
    depth = int(variables.get("GIT_DEPTH") or git.get("depth") or 0)
    template = shlex.quote(variables.get("RUNNER_TEMP_PROJECT_DIR") + "/git-template")
    url = shlex.quote(git["repo_url"])
    specs = " ".join(shlex.quote(spec) for spec in git.get("refspecs") or [])
    locks = " ".join(f"{directory}/.git/{name}.lock" for name in ("index", "shallow", "HEAD", "config"))
    limit = f"--depth {depth}" if depth else ""
    return (
        (f"rm -rf {directory}\n" if fresh else "")
        + say(f"Fetching changes with git depth set to {depth}..." if depth else "Fetching changes...")
        + f"mkdir -p {template}\n"
        + f"git config -f {template}/config init.defaultBranch none\n"
        + f"git config -f {template}/config fetch.recurseSubmodules false\n"
        + f"rm -f {locks} {directory}/.git/hooks/post-checkout\n"
        + f"git init {directory} --template {template} || exit 1\ncd {directory}\n"
        + f"if git remote add origin {url} >/dev/null 2>&1; then\n  {say('Created fresh repository.')}"
        + f"else\n  git remote set-url origin {url}\nfi\n"
        + f"git -c {shlex.quote(f'http.userAgent=gitlab-runner {VERSION} linux/amd64')} fetch origin "
        + f"{specs} {limit} --prune --quiet || exit 1\n"
    )


def user_script(
    lines: Iterable[str], job: Mapping[str, Any], variables: Variables, status: str, *, after: bool
) -> str:
    """script and after_script: each command is shown in green before it runs."""
    directory = project_dir(job, variables.get("CI_BUILDS_DIR"))
    text = exports(variables, status) + f"cd {shlex.quote(directory)}\n"
    if after:
        text += say("Running after script...")
    for command in lines:
        stripped = command.strip()
        first, newline, _ = stripped.partition("\n")
        if not stripped:
            text += "echo\n"
            continue
        text += say(f"$ {first}" + (" # collapsed multi-line command" if newline else "")) + stripped + "\n"
    return text


def cleanup_files(variables: Variables) -> str:
    """Remove what file variables wrote; empty when there are none (the stage is skipped then)."""
    directory = variables.get("RUNNER_TEMP_PROJECT_DIR")
    return "".join(
        f"rm -f {shlex.quote(f'{directory}/{item.key}')}\n" for item in variables.items if item.file
    )
