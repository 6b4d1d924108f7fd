"""Profiles: what they mean, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.profile import PROFILES_DIR, available, load_profile
from harness.versions import version_tuple


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (PROFILES_DIR / "seed.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    return path


def test_seed_holds_the_articles_versions() -> None:
    profile = load_profile("seed")
    assert profile.requested == {
        "k3s": "v1.28.5+k3s1",
        "cert-manager": "v1.7.1",
        "olm": "v0.26.0",
        "operator": "1.15.1",
        "runner": "16.0.1",
    }
    assert profile.operator.csv == "gitlab-runner-operator.v1.15.1"
    assert profile.operator.approval == "Manual"
    substitute = profile.image_substitutions["gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0"]
    assert substitute == "docker.io/kubesphere/kube-rbac-proxy:v0.8.0"


def test_several_replacements_are_kept_in_order_and_one_is_chosen() -> None:
    profile = load_profile("seed")
    old = "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0"
    hosts = [it.partition("/")[0] for it in profile.image_alternatives[old]]
    assert hosts == ["docker.io", "quay.io", "registry.k8s.io"]
    second = profile.image_alternatives[old][1]
    assert profile.with_images({old: second}).image_substitutions == {old: second}


@pytest.mark.parametrize("value", ['""', "[]", '[""]', "3", '["a b"]', '{ x = "y" }'])
def test_a_replacement_that_is_no_image_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.toml"
    text = (PROFILES_DIR / "seed.toml").read_text()
    start, end = text.index("[images]"), text.index("[jobs]")
    path.write_text(f'{text[:start]}[images]\n"a.example/b:c" = {value}\n{text[end:]}')
    with pytest.raises(UsageError, match="images"):
        load_profile(path)


@pytest.mark.parametrize("name", available())
def test_every_profile_that_comes_along_is_valid(name: str) -> None:
    assert load_profile(name).name == name


def test_overrides_replace_and_none_is_skipped() -> None:
    profile = load_profile("seed", {"k3s": "v1.29.0+k3s1", "olm": None, "channel": "beta"})
    assert (profile.k3s, profile.olm, profile.operator.channel) == ("v1.29.0+k3s1", "v0.26.0", "beta")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"k3s": "v1.28.5"}, "no version of k3s"),
        ({"k3s": "1.28.5+k3s1"}, "no version of k3s"),
        ({"k3s": "v1.28.5+k3s"}, "no version of k3s"),
        ({"cert-manager": "1.7.1"}, "no version of cert-manager"),
        ({"operator": "v1.15.1"}, "no version of operator"),
        ({"k3s": "v1.21.0+k3s1"}, "too old"),
        ({"cert-manager": "v1.7.0"}, "too old"),
        ({"kubernetes": "v1.28.5+k3s1"}, "nothing in a profile is called"),
    ],
)
def test_bad_versions_are_usage_errors(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_profile("seed", overrides)
    assert caught.value.exit_code == 4
    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('channel = "stable"', 'chanel = "stable"', r"unknown field operator\.chanel"),
        ("[olm]", "[lom]", "unknown field 'lom'"),
        ("[runner]\nversion", "[runner]\nname", r"unknown field runner\.name"),
        ('approval = "Manual"', 'approval = "manual"', "Manual or Automatic"),
        ('approval = "Manual"', 'approval = "Automatic"', "head of the channel"),
        ('minimum-kubernetes = "1.21.0"', 'minimum-kubernetes = "1.29.0"', "minKubeVersion"),
        ('builder = "kaniko"', 'builder = "docker"', "builder is unknown"),
        ('channel = "stable"', 'channel = ""', "not empty"),
        ('channel = "stable"', "channel = 1", "not empty"),
        ('name = "seed"', "name = ", "no TOML"),
    ],
)
def test_bad_files_are_usage_errors(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_profile(changed(tmp_path, old, new))


def test_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"operator\.channel is missing"):
        load_profile(changed(tmp_path, 'channel = "stable"\n', ""))


def test_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("sead")
    assert "seed" in caught.value.hint


def test_installs_with_the_version_that_is_provided() -> None:
    provided = load_profile("latest").as_provided({"operator": "1.15.1", "runner": "16.0.1"})
    assert provided.operator.csv == "gitlab-runner-operator.v1.15.1"
    assert provided.runner == "16.0.1"


def test_version_tuple() -> None:
    assert version_tuple("v1.28.5+k3s1") == (1, 28, 5)
    with pytest.raises(UsageError):
        version_tuple("1.28")
