"""What to verify: a profile's versions, channel and image substitutions, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.files import clipped, parse_toml, read_text
from harness.versions import checks, facts

PROFILES_DIR = Path(__file__).resolve().parent.parent / "profiles"

_NUMBERS = r"\d{1,6}\.\d{1,6}\.\d{1,6}"
_PRERELEASE = r"(-(alpha|beta|rc)\.?\d{1,6})?"
_FORMS: Mapping[str, tuple[str, str]] = {
    "k3s": (rf"v{_NUMBERS}{_PRERELEASE}\+[a-z][a-z0-9]{{0,20}}\d", "v1.28.5+k3s1"),
    "cert-manager": (rf"v{_NUMBERS}{_PRERELEASE}", "v1.7.1"),
    "olm": (rf"v{_NUMBERS}{_PRERELEASE}", "v0.26.0"),
    "operator": (_NUMBERS, "1.15.1"),
    "runner": (_NUMBERS, "16.0.1"),
}
_WHERE: Mapping[str, tuple[str, str]] = {
    "k3s": ("kubernetes", "k3s"),
    "cert-manager": ("cert-manager", "version"),
    "olm": ("olm", "version"),
    "operator": ("operator", "version"),
    "runner": ("runner", "version"),
    "channel": ("operator", "channel"),
}
"""Name of an override → table and field. These are the options ``--<name>-version`` and ``--channel``."""

OVERRIDES = tuple(_WHERE)

_FIELDS: Mapping[str, frozenset[str]] = {
    "kubernetes": frozenset({"k3s"}),
    "cert-manager": frozenset({"version"}),
    "olm": frozenset({"version"}),
    "operator": frozenset(
        {
            "package",
            "channel",
            "version",
            "approval",
            "catalog",
            "subscription",
            "namespace",
            "minimum-kubernetes",
        }
    ),
    "runner": frozenset({"version"}),
    "jobs": frozenset({"docker", "dind"}),
    "daemonless": frozenset({"builder", "image"}),
}
_OPTIONAL: Mapping[str, frozenset[str]] = {"kubernetes": frozenset({"kind-image"})}
_BUILDERS = ("kaniko", "buildah")
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class OperatorWish:
    """Which operator is subscribed to, how, and where."""

    package: str
    channel: str
    version: str
    approval: str
    catalog: str
    subscription_name: str
    namespace: str
    minimum_kubernetes: str

    @property
    def csv(self) -> str:
        """The ClusterServiceVersion asked for."""
        return f"{self.package}.v{self.version}"


@dataclass(frozen=True)
class JobImages:
    """Images of the jobs that build with docker: the command line's, and the docker-dind service's."""

    docker: str
    dind: str

    def __str__(self) -> str:
        return f"{self.docker} with {self.dind}"


HOW_TO_PAIR = JobImages("docker:latest", "docker:20.10.7-dind")
"""As the how-to's .gitlab-ci.yml writes it; what `latest` is depends on the day."""


@dataclass(frozen=True)
class Profile:
    """The versions to verify."""

    name: str
    title: str
    k3s: str
    cert_manager: str
    olm: str
    operator: OperatorWish
    runner: str
    image_substitutions: Mapping[str, str]
    image_alternatives: Mapping[str, tuple[str, ...]]
    """What may replace an image, in order; ``image_substitutions`` has the one that does."""
    jobs: JobImages
    daemonless: str
    daemonless_image: str
    kind_image: str = ""
    """kind's node image; empty: the bundle's, else kind's own default."""

    def as_provided(self, versions: Mapping[str, str]) -> Profile:
        """The profile to install with: where artifacts provide another operator or Runner than was asked for
        (a stand-in), its names carry the version that is really there."""
        operator = replace(self.operator, version=versions.get("operator", self.operator.version))
        return replace(self, operator=operator, runner=versions.get("runner", self.runner))

    def with_images(self, chosen: Mapping[str, str]) -> Profile:
        """The profile with what was chosen among the alternatives."""
        return replace(self, image_substitutions={**self.image_substitutions, **chosen})

    @property
    def requested(self) -> dict[str, str]:
        """Component → the version asked for."""
        return {
            "k3s": self.k3s,
            "cert-manager": self.cert_manager,
            "olm": self.olm,
            "operator": self.operator.version,
            "runner": self.runner,
        }


def load_profile(name_or_path: str | Path, overrides: Mapping[str, str | None] | None = None) -> Profile:
    """The profile of that name (or file), with versions replaced by ``overrides`` (None is skipped).

    Raises UsageError for an unknown profile or field, a misspelt version, versions that exclude each other.

    >>> load_profile("seed", {"k3s": "v1.29.0+k3s1"}).k3s
    'v1.29.0+k3s1'
    """
    path = _path_of(name_or_path)
    try:
        return _read(path, {name: value for name, value in (overrides or {}).items() if value is not None})
    except UsageError as error:  # it may repeat what the file says, which may be of any length
        raise UsageError(clipped(error.message), clipped(error.hint)) from None


def _read(path: Path, given: Mapping[str, str]) -> Profile:
    def complain(sentence: str) -> UsageError:
        return UsageError(sentence, "compare it with profiles/seed.toml")

    try:
        data = parse_toml(read_text(path, complain), path, complain)
    except FileNotFoundError:
        raise UsageError(f"there is no profile {path}", f"there are {', '.join(available())}") from None
    _check_fields(data, path)
    for name, value in given.items():
        if name not in _WHERE:
            raise UsageError(f"nothing in a profile is called {name!r}", f"there are {', '.join(_WHERE)}")
        table, field = _WHERE[name]
        data[table][field] = value
    if "operator" in given and "runner" not in given:
        data["runner"]["version"] = _shipped_runner(given["operator"], data["runner"]["version"])
    profile = _build(data, path)
    _check_versions(profile)
    return profile


def _shipped_runner(operator: str, of_profile: str) -> str:
    """The Runner that another operator than the profile's brings along."""
    if operator in facts.SHIPPED_RUNNER:
        return facts.SHIPPED_RUNNER[operator]
    if not re.fullmatch(_FORMS["operator"][0], operator):
        return of_profile  # the operator's version is refused later, with its own words
    raise UsageError(
        f"which Runner operator {operator} ships is not known here",
        "name it with --runner-version; the description on OperatorHub.io says it",
    )


def available() -> list[str]:
    """Names of the profiles that come with the project."""
    return sorted(path.stem for path in PROFILES_DIR.glob("*.toml"))


def _path_of(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or "/" in str(name_or_path):
        return path
    if str(name_or_path) not in available():
        raise UsageError(
            f"no profile is called {str(name_or_path)[:60]!r}", f"there are {', '.join(available())}"
        )
    return PROFILES_DIR / f"{name_or_path}.toml"


def _check_fields(data: Mapping[str, Any], path: Path) -> None:
    for key, value in data.items():
        if key in ("name", "title"):
            if not isinstance(value, str):
                raise UsageError(f"{path}: {key} must be a text")
            continue
        if key not in _FIELDS and key != "images":
            raise UsageError(
                f"{path}: unknown field {key!r}", f"there are name, title, images, {', '.join(_FIELDS)}"
            )
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {key} must be a table")
        if key == "images":
            continue
        for field in value.keys() - _FIELDS[key] - _OPTIONAL.get(key, frozenset()):
            raise UsageError(
                f"{path}: unknown field {key}.{field}", f"[{key}] knows {', '.join(sorted(_FIELDS[key]))}"
            )
    for table, fields in _FIELDS.items():
        for field in fields - data.get(table, {}).keys():
            raise UsageError(f"{path}: {table}.{field} is missing", "compare it with profiles/seed.toml")


def _build(data: Mapping[str, Any], path: Path) -> Profile:
    wish = data["operator"]
    images = _alternatives(data.get("images", {}), path)
    texts = [data[table] for table in _FIELDS]
    if not all(isinstance(value, str) and value for table in texts for value in table.values()):
        raise UsageError(f"{path}: every field is a text that is not empty")
    if wish["approval"] not in ("Manual", "Automatic"):
        raise UsageError(f"{path}: operator.approval is {wish['approval']!r}", "it is Manual or Automatic")
    if data["daemonless"]["builder"] not in _BUILDERS:
        raise UsageError(f"{path}: daemonless.builder is unknown", f"it is one of {', '.join(_BUILDERS)}")
    node = data["kubernetes"].get("kind-image", "")
    for image in (*data["jobs"].values(), data["daemonless"]["image"], *filter(None, [node])):
        if not IMAGE.fullmatch(image):
            raise UsageError(f"{path}: {image!r} is no image", "write it as in .gitlab-ci.yml: docker:25.0.0")
    return Profile(
        name=str(data.get("name", path.stem)),
        title=str(data.get("title", "")),
        k3s=data["kubernetes"]["k3s"],
        cert_manager=data["cert-manager"]["version"],
        olm=data["olm"]["version"],
        operator=OperatorWish(
            package=wish["package"],
            channel=wish["channel"],
            version=wish["version"],
            approval=wish["approval"],
            catalog=wish["catalog"],
            subscription_name=wish["subscription"],
            namespace=wish["namespace"],
            minimum_kubernetes=wish["minimum-kubernetes"],
        ),
        runner=data["runner"]["version"],
        image_substitutions={old: new[0] for old, new in images.items()},
        image_alternatives=images,
        jobs=JobImages(**data["jobs"]),
        daemonless=data["daemonless"]["builder"],
        daemonless_image=data["daemonless"]["image"],
        kind_image=node,
    )


def _alternatives(images: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """The table [images]: what replaces an image; of several, the first that can be had."""
    found = {}
    for old, given in images.items() if isinstance(images, dict) else [("", images)]:
        several = given if isinstance(given, list) else [given]
        if not several or not all(isinstance(it, str) and IMAGE.fullmatch(it) for it in several):
            raise UsageError(
                f"{path}: images: {given!r} is no image, nor a list of some", "write host/path:tag, in order"
            )
        found[old] = tuple(several)
    return found


def _check_versions(profile: Profile) -> None:
    for component, version in profile.requested.items():
        form, example = _FORMS[component]
        if not re.fullmatch(form, version):
            raise UsageError(
                f"{version[:40]!r} is no version of {component}", f"write it as its releases do: {example}"
            )
    checks.refuse_conflicts(profile)
    if profile.operator.approval == "Automatic" and profile.operator.version:
        _refuse_automatic(profile)


def _refuse_automatic(profile: Profile) -> None:
    """With Automatic approval OLM goes on to the channel's head, whatever startingCSV says."""
    raise UsageError(
        f"operator.approval = Automatic can't hold operator {profile.operator.version}: "
        "OLM upgrades it at once to the head of the channel",
        'set approval = "Manual"',
    )
