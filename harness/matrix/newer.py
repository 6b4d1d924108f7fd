"""A matrix file of what is newer than a profile: each new release alone, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.matrix.plan import AXES, Cell, impossible
from harness.profile import Profile
from harness.versions.online import Newest
from harness.versions.table import version_tuple


def matrix_of_newer(profile: Profile, found: Iterable[Newest]) -> str:
    """TOML for ``runner-conformance matrix``.

    One run is the profile as it is, to compare with. What can't be combined, and releases whose site did not
    answer, are said in comments.
    """
    newest = [it for it in found if it.component in AXES and it.component in profile.requested]
    newer = {
        it.component: it.version for it in newest if _is_newer(it.version, profile.requested[it.component])
    }
    lines = [
        f"# Newer than profile {profile.name}:"
        if newer
        else f"# Nothing is newer than profile {profile.name}."
    ]
    lines += [f"#   {it}" for it in newest if it.component in newer]
    lines += [f"# Not asked: {it}" for it in newest if not it.asked and it.component not in newer]
    if not newer:
        return "\n".join(lines) + "\n"
    alone = [{component: version} for component, version in newer.items()]
    together = [newer] if len(newer) > 1 else []
    lines += [
        "",
        "[common]",
        f'profile = "{profile.name}"',
        "",
        "[axes]  # the profile as it is, to compare with",
    ]
    first = next(iter(newer))
    lines += [f'{first} = ["{profile.requested[first]}"]']
    for values in (*alone, *together):
        lines += _include(values, impossible([Cell(values, {"profile": profile.name})]))
    return "\n".join(lines) + "\n"


def _is_newer(version: str, than: str) -> bool:
    return version_tuple(version) > version_tuple(than)


def _include(values: dict[str, str], why_not: Sequence[str]) -> list[str]:
    """One more combination; as a comment where it cannot be."""
    rows = ["[[include]]", *(f'{component} = "{version}"' for component, version in values.items())]
    if why_not:
        rows = [f"# Can't be: {why}" for why in why_not] + [f"# {row}" for row in rows]
    return ["", *rows]
