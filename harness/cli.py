"""runner-conformance: make, look at, use and remove a stack by hand."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console

from harness import state as states
from harness.cli_view import LiveProgress, Transfers, not_ready, print_plan, print_status, print_timeline
from harness.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PRODUCT,
    EXIT_SUITE,
    EXIT_USAGE,
    HarnessError,
    LeftoversError,
    UsageError,
    of_os_error,
)
from harness.given import UP, Given
from harness.interrupts import Interrupts
from harness.matrix import cli as matrix
from harness.options import OPTIONS, Option, ProvisionOptions, provision_options
from harness.redact import redact
from harness.streams import SafeFile, let_go_of_dead_streams

app = typer.Typer(
    help="k3s, cert-manager, OLM, GitLab Runner Operator and a Runner, in an ephemeral cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_CLICK_USAGE = 2
console = Console(stderr=True, highlight=False, soft_wrap=True)

DEFAULT_NAME = "default"

Name = Annotated[str, typer.Argument(help="Name of the stack, as given to `up --name`.")]


@app.command(epilog="Example: runner-conformance doctor")
def doctor(
    cluster: Annotated[str, typer.Option(help="Which kind of cluster is to run here.")] = "k3s",
) -> None:
    """Say everything that this host lacks for a run, each with its mend."""
    from harness.doctor import examine

    findings = examine(cluster)
    for finding in findings:
        console.print(f"{'ok  ' if finding.ok else 'LACK'}  {finding.what}: {finding.found}")
        if not finding.ok:
            console.print(f"      What to do: {finding.mend}")
    raise typer.Exit(EXIT_OK if all(it.ok or it.optional for it in findings) else EXIT_ENVIRONMENT)


@app.command(epilog="Example: runner-conformance versions --newer-than latest > new.toml")
def versions(
    newer_than: Annotated[
        str, typer.Option(help="Print a matrix file of what is newer than this profile.", metavar="PROFILE")
    ] = "",
) -> None:
    """Say which release of each component is newest; offline, what is known and from when."""
    from harness.versions.online import newest

    if newer_than:
        from harness.matrix.newer import matrix_of_newer
        from harness.profile import load_profile

        profile = load_profile(newer_than)
        print(matrix_of_newer(profile, newest()), end="")
        return
    for line in newest():
        console.print(str(line))


def up(only: list[str] | None = None, **given: Any) -> None:
    """Install the stack; without --keep it lives until Ctrl-C."""
    _up(provision_options(Given(given)), only)


_TYPES: dict[str, Any] = {"text": str | None, "path": Path | None, "flag": bool}


def _parameter(option: Option) -> inspect.Parameter:
    """A row of the options as typer reads it."""
    default: Any = DEFAULT_NAME if option.name == "name" else option.default or None
    default = False if option.type == "flag" else default
    about = typer.Option(option.flag, help=option.help, metavar=option.metavar or None)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_TYPES[option.type], about],
    )


def _typed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each option, as typer wants to see them."""
    parameters = [_parameter(option) for option in OPTIONS if UP in option.programs]
    only = Annotated[list[str] | None, typer.Option(help="Install only this layer and its needs.")]
    parameters.append(
        inspect.Parameter("only", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=only)
    )
    command.__annotations__ = {it.name: it.annotation for it in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


app.command(epilog="Example: runner-conformance up --keep --name demo")(_typed(up))


def _up(options: ProvisionOptions, only: list[str] | None) -> None:
    from harness.provision import Provisioner
    from harness.stack.catalogue import LAYERS

    layers = tuple(only or LAYERS)
    unknown = [name for name in layers if name not in LAYERS]
    if unknown:
        raise UsageError(f"no layer is called {unknown[0]!r}", f"there are {', '.join(LAYERS)}")
    progress = LiveProgress(console)
    transfers = Transfers(console)
    run = Provisioner(options, progress=progress, report=console.print, transferred=transfers)
    stays = False
    _interrupts.ending = run.graph.cancelled  # what it still waits for then must end before the removal
    try:
        with transfers:
            plan = run.plan(layers)
        print_plan(console, plan)
        ctx = run.up(layers)
        print_timeline(console, run.graph.states)
        console.print(f"\nexport KUBECONFIG={ctx.cluster.kubeconfig}")
        stays = options.keep
        if stays:
            run.keep()
            console.print(f"Remove it with: runner-conformance down {options.name}")
        else:
            console.print("Running; Ctrl-C removes it.")
            signal.pause()
    except HarnessError:
        print_timeline(console, run.graph.states)
        raise
    finally:
        if not stays:
            _clean_up(run)


def _clean_up(run: Any) -> None:
    _interrupts.ending.set()
    console.print("Removing everything that this run made …")
    leftovers = run.down()
    if leftovers:
        raise LeftoversError(
            "not everything could be removed", "see `runner-conformance reap`", evidence="\n".join(leftovers)
        )
    console.print("Nothing is left.")


@app.command(epilog="Example: runner-conformance status demo")
def status(name: Annotated[str | None, typer.Argument(help="One stack; without it, all.")] = None) -> None:
    """Show the stacks of this host, and whether each of their layers is ready now."""
    found = [name] if name else states.names()
    if not found:
        console.print("There is no stack here; `runner-conformance up --keep` makes one.")
    complete = [print_status(console, one) for one in found]
    raise typer.Exit(EXIT_OK if all(complete) else EXIT_ENVIRONMENT)


@app.command(epilog="Example: runner-conformance explain demo; runner-conformance explain pull/rate-limited")
def explain(
    name: Annotated[
        str, typer.Argument(help="A stack, or the id of a reason (docs/reasons.md).")
    ] = DEFAULT_NAME,
    out: Annotated[Path | None, typer.Option(help="Also write everything below this directory.")] = None,
) -> None:
    """Say why layers of a stack aren't ready (without secrets), or what a reason means and what to do."""
    if "/" in name:
        from harness.diagnosis.page import explain as explain_reason

        console.print(explain_reason(name), markup=False, highlight=False)
        return
    from harness.attach import attach
    from harness.evidence import collect

    ctx = attach(name, progress=lambda layer, text: None)
    broken = not_ready(ctx)
    if not broken:
        console.print(f"Every layer of stack {name!r} is ready.")
        return
    for layer, missing in broken.items():
        console.print(f"\n{layer}: {missing}", markup=False)
        with TemporaryDirectory() as folder:
            found = collect(ctx, layer, out / layer if out else Path(folder))
        console.print(found.summary, markup=False)
    raise typer.Exit(EXIT_PRODUCT)


@app.command(epilog="Example: export KUBECONFIG=$(runner-conformance kubeconfig demo)")
def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the path of a stack's kubeconfig."""
    state = states.StackState.load(states.directory_of(name))
    if not state.kubeconfig:
        raise UsageError(f"stack {name!r} has no cluster yet")
    print(state.kubeconfig)


@app.command(
    epilog="Example: runner-conformance shell demo -- k3s crictl images",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def shell(context: typer.Context, name: Name = DEFAULT_NAME) -> None:
    """Run a command on the node (default: a shell that has KUBECONFIG set, on this host)."""
    from harness.attach import attach

    ctx = attach(name)
    if not context.args:
        environment = {**os.environ, "KUBECONFIG": str(ctx.cluster.kubeconfig)}
        raise typer.Exit(subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=environment).returncode)
    done = ctx.cluster.node_shell(context.args, timeout_s=3600)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    raise typer.Exit(done.returncode)


@app.command(epilog="Example: runner-conformance down demo")
def down(name: Name = DEFAULT_NAME) -> None:
    """Remove a kept stack: everything that carries its run id, and nothing else."""
    from harness.teardown import take_down

    _interrupts.ending.set()  # from here on no signal cuts the removal short
    leftovers = take_down(name)
    if leftovers:
        raise LeftoversError(
            f"not everything of stack {name!r} could be removed",
            "mend what it says and run `down` again",
            evidence="\n".join(leftovers),
        )
    console.print(f"Stack {name!r} is removed.")


@app.command(epilog="Example: runner-conformance bundle --profile seed --out /srv/bundle")
def bundle(
    out: Annotated[Path, typer.Option(help="Directory to make; it must not exist.")],
    profile: Annotated[str, typer.Option(help="Profile by name, or a TOML file.")] = "seed",
    artifacts: Annotated[str, typer.Option(help="upstream or china.")] = "upstream",
    registry_auth: Annotated[
        Path | None, typer.Option(help="Logins for registries, as docker's config.json.")
    ] = None,
) -> None:
    """Make an air-gap bundle on a connected machine: all files and images of a profile."""
    from harness.artifacts import ONLINE
    from harness.artifacts.auto import open_artifacts
    from harness.artifacts.collect import collect as make_bundle
    from harness.artifacts.upstream import UpstreamArtifacts
    from harness.profile import load_profile

    if artifacts not in ONLINE:
        raise UsageError(f"--artifacts {artifacts}: a bundle is made from upstream or china")
    with Transfers(console) as transfers:
        source = open_artifacts(
            artifacts, load_profile(profile), transferred=transfers, registry_auth=registry_auth
        )
        assert isinstance(source, UpstreamArtifacts)  # both are
        made = make_bundle(source, out.resolve(), console.print)
    console.print(f"{len(made.files)} files and {len(made.images)} images; use it with --artifacts {out}")


@app.command(epilog="Example: runner-conformance reap --dry-run")
def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also what carries our mark and no journal here knows.")
    ] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="For a cluster that a run used.")] = None,
    context: Annotated[str | None, typer.Option(help="With --kubeconfig.")] = None,
    gitlab_url: Annotated[str | None, typer.Option(help="The GitLab that a run used.")] = None,
    gitlab_token_file: Annotated[Path | None, typer.Option(help="File with a token of scope api.")] = None,
    gitlab_ca_file: Annotated[Path | None, typer.Option(help="CA of that GitLab, PEM.")] = None,
) -> None:
    """Remove what runs left behind that were killed; running and kept stacks stay."""
    from harness.reap import Access, reap_all, remove_unknown, survey

    access = Access(kubeconfig, context, gitlab_url, gitlab_token_file, gitlab_ca_file)
    found = survey(access)
    for line in found.lines():
        console.print(f"left behind: {redact(line)}", markup=False)
    for line in found.unknown:
        console.print(f"unknown: {redact(line)}", markup=False)
    for line in found.notes:
        console.print(redact(line), markup=False)
    if found.unknown and not unknown:
        console.print("Unknown things stay: they may be another state home's. --unknown removes them.")
    if dry_run:
        if not found.lines():
            console.print("Nothing is left behind.")
        return
    _interrupts.ending.set()
    resisted = reap_all(access)
    if unknown:
        resisted += remove_unknown()
    after = survey(access)
    left = dict.fromkeys((*resisted, *after.lines(), *(after.unknown if unknown else ())))
    if left:
        raise LeftoversError(
            "not everything could be removed; the journal keeps it for the next `reap`",
            evidence="\n".join(left),
        )
    console.print("Nothing is left behind.")


matrix.register(app)


_interrupts = Interrupts(lambda line: console.print(line, markup=False))


def main() -> None:
    """Entry point: errors become a sentence and an exit code that tells environment from product."""
    sys.stderr = cast("TextIO", SafeFile(sys.stderr))  # a terminal that was closed must not end the removal
    try:
        _interrupts.install()
        code = app(standalone_mode=False)
    except HarnessError as error:
        console.print(f"\n{redact(str(error))}", markup=False)
        code = error.exit_code
    except KeyboardInterrupt:
        console.print("Interrupted.")
        code = EXIT_INTERRUPTED
    except typer.Abort:
        code = EXIT_INTERRUPTED
    except OSError as error:
        problem = of_os_error(error, "it could not go on")
        console.print(f"\n{redact(str(problem))}", markup=False)
        code = problem.exit_code
    except Exception as error:
        code = _usage_of_click(error)
    _interrupts.ignore()
    let_go_of_dead_streams()
    sys.exit(code if isinstance(code, int) else EXIT_OK)


def _usage_of_click(error: Exception) -> int:
    """Click's own complaints (unknown option, missing value) as it prints them; anything else is ours."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is None or code is None:
        sys.stderr.write(traceback.format_exc())
        return EXIT_SUITE
    show()
    return EXIT_USAGE if code == _CLICK_USAGE else int(code)


if __name__ == "__main__":
    main()
