"""The k3s stand-in's launcher: flags, configuration file, registries, template, packed file."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from lab.standins.k3s.pack import pack

STANDIN = Path(__file__).parents[2] / "lab/standins/k3s"


@pytest.fixture(scope="module", autouse=True)
def launcher() -> Iterator[None]:
    """Its modules, found as in the packed file: at the top."""
    sys.path.insert(0, str(STANDIN))
    yield
    sys.path.remove(str(STANDIN))
    for name in [it for it in sys.modules if it.partition(".")[0] == "launcher"]:
        del sys.modules[name]


@pytest.fixture
def options() -> ModuleType:
    return importlib.import_module("launcher.options")


@pytest.fixture
def containerd() -> ModuleType:
    return importlib.import_module("launcher.containerd")


def test_flags_have_k3s_defaults(options: ModuleType, tmp_path: Path) -> None:
    found = options.parse([f"--config={tmp_path}/none"], 28)
    assert (found.data_dir, found.cluster_cidr, found.service_cidr, found.cluster_dns) == (
        "/var/lib/rancher/k3s", "10.42.0.0/16", "10.43.0.0/16", "10.43.0.10",
    )  # fmt: skip


def test_an_unknown_flag_ends_it_in_k3s_words(
    options: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options.parse(["--config=/dev/null", "--foo=3"], 28)
    assert caught.value.code == 1
    assert 'level=fatal msg="flag provided but not defined: -foo"' in capsys.readouterr().err


def test_the_command_line_wins_over_the_file_and_unknown_keys_are_skipped(
    options: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "node-name": "from-file",
                "disable": ["traefik", "coredns"],
                "docker": True,
                "tls-san": "a",
                "no-such": 1,
            }
        )
    )
    found = options.parse([f"--config={config}", "--node-name", "from-line", "--disable=servicelb"], 28)
    assert found.node_name == "from-line"
    assert found.disable == ["servicelb"]
    assert found.docker is True
    assert found.tls_san == ["a"]
    assert "Unknown flag --no-such found in config.yaml, skipping" in capsys.readouterr().err


def test_one_dash_is_as_good_as_two(options: ModuleType) -> None:
    found = options.parse(["--config=/dev/null", "-node-name=n", "-d", "/data"], 28)
    assert (found.node_name, found.data_dir) == ("n", "/data")


def hosts(containerd: ModuleType, tmp_path: Path, registries: object, *, no_fallback: bool = False) -> Path:
    """Directory of the hosts.toml files that a registries.yaml gives."""
    source = tmp_path / "registries.yaml"
    source.write_text(yaml.safe_dump(registries))
    chosen = SimpleNamespace(private_registry=str(source), disable_default_registry_endpoint=no_fallback)
    containerd._write_hosts(containerd.registry_settings(chosen), chosen, tmp_path)
    return tmp_path / "etc/containerd/certs.d"


REWRITTEN = {
    "mirrors": {"quay.io": {"endpoint": ["http://10.0.0.1:5000"], "rewrite": {"^(.*)$": "quay.io/$1"}}}
}


def test_a_rewritten_mirror_comes_before_the_upstream_host(containerd: ModuleType, tmp_path: Path) -> None:
    text = (hosts(containerd, tmp_path, REWRITTEN) / "quay.io/hosts.toml").read_text()
    assert 'server = "https://quay.io"' in text
    assert '[host."http://10.0.0.1:5000/v2/quay.io"]' in text
    assert "override_path = true" in text


def test_without_fallback_nobody_else_is_asked(containerd: ModuleType, tmp_path: Path) -> None:
    text = (hosts(containerd, tmp_path, REWRITTEN, no_fallback=True) / "quay.io/hosts.toml").read_text()
    assert "https://" not in text
    assert 'server = "http://10.0.0.1:5000/v2/quay.io"' in text


def test_a_plain_mirror_keeps_the_path(containerd: ModuleType, tmp_path: Path) -> None:
    found = hosts(containerd, tmp_path, {"mirrors": {"docker.io": {"endpoint": ["https://mirror.example"]}}})
    text = (found / "docker.io/hosts.toml").read_text()
    assert 'server = "https://registry-1.docker.io"' in text
    assert '[host."https://mirror.example"]' in text
    assert "override_path" not in text


def test_a_rewrite_that_it_cannot_express_is_refused(containerd: ModuleType, tmp_path: Path) -> None:
    odd = {"mirrors": {"quay.io": {"endpoint": ["http://h"], "rewrite": {"^a/(.*)": "b/$1"}}}}
    with pytest.raises(Exception, match="supports only rewrites of the form"):
        hosts(containerd, tmp_path, odd)


@pytest.mark.parametrize("template", ['{{ template "base" . }}\n# mine\n', "# mine\n{{ nonsense }}\n"])
def test_the_containerd_template_is_honoured(containerd: ModuleType, tmp_path: Path, template: str) -> None:
    etc = tmp_path / "agent/etc/containerd"
    etc.mkdir(parents=True)
    (etc / "config.toml.tmpl").write_text(template)
    chosen = chosen_for(tmp_path)
    if "nonsense" in template:
        with pytest.raises(Exception, match=r"knows no \{\{ nonsense \}\}"):
            containerd.write_config(chosen, tmp_path, 28)
        return
    text = containerd.write_config(chosen, tmp_path, 28).read_text()
    assert text.endswith("# mine\n")
    assert 'sandbox_image = "docker.io/rancher/mirrored-pause:3.6"' in text


def chosen_for(tmp_path: Path) -> SimpleNamespace:
    """The options that containerd's configuration depends on."""
    return SimpleNamespace(
        data_dir=str(tmp_path),
        pause_image="rancher/mirrored-pause:3.6",
        system_default_registry="",
        snapshotter="overlayfs",
        private_registry="/none",
    )


V2, V3 = "config.toml.tmpl", "config-v3.toml.tmpl"


@pytest.mark.parametrize(
    ("minor", "templates", "version"),
    [
        (28, [], 2),
        (28, [V3], 2),
        (31, [V2, V3], 2),
        (32, [], 3),
        (37, [V3], 3),
        (37, [V2], 2),
        (37, [V2, V3], 3),
    ],
)
def test_the_version_of_containerds_configuration_is_that_of_the_k3s(
    containerd: ModuleType, tmp_path: Path, minor: int, templates: list[str], version: int
) -> None:
    etc = tmp_path / "agent/etc/containerd"
    etc.mkdir(parents=True)
    for name in templates:
        (etc / name).write_text('{{ template "base" . }}\n# mine\n')
    written = containerd.write_config(chosen_for(tmp_path), tmp_path, minor)
    assert tomllib.loads(written.read_text())["version"] == version
    honoured = V3 if version == 3 else V2
    assert ("# mine" in written.read_text()) is (honoured in templates)
    assert tomllib.loads(containerd.for_debian(written).read_text())["version"] == 2


@pytest.mark.parametrize("minor", [28, 37])
def test_logins_of_registries_reach_containerd(containerd: ModuleType, tmp_path: Path, minor: int) -> None:
    """By host, as k3s writes them: what pods pull, their sandbox image too, is pulled with them."""
    source = tmp_path / "registries.yaml"
    auth = {"username": "somebody", "password": 'a "quoted" one'}
    source.write_text(yaml.safe_dump({"configs": {"registry-1.docker.io": {"auth": auth}}}))
    chosen = SimpleNamespace(**{**vars(chosen_for(tmp_path)), "private_registry": str(source)})
    chosen.disable_default_registry_endpoint = False
    written = containerd.write_config(chosen, tmp_path, minor)
    found = tomllib.loads(containerd.for_debian(written).read_text())["plugins"]["io.containerd.grpc.v1.cri"]
    assert found["registry"]["configs"] == {"registry-1.docker.io": {"auth": auth}}
    assert found["registry"]["config_path"]


def test_version_3_says_to_an_older_containerd_what_version_2_says(
    containerd: ModuleType, tmp_path: Path
) -> None:
    old, new = (
        tomllib.loads(
            containerd.for_debian(containerd.write_config(chosen_for(tmp_path), tmp_path, minor)).read_text()
        )
        for minor in (28, 37)
    )
    assert new == old


@pytest.mark.parametrize(
    ("section", "obeyed"),
    [("io.containerd.cri.v1.runtime", True), ("io.containerd.grpc.v1.cri", False), ("cri", False)],
)
def test_a_setting_of_another_versions_section_has_no_effect(
    containerd: ModuleType, tmp_path: Path, section: str, obeyed: bool
) -> None:
    etc = tmp_path / "agent/etc/containerd"
    etc.mkdir(parents=True)
    base = containerd.write_config(chosen_for(tmp_path), tmp_path, 37).read_text()
    named = f"[plugins.'{section}']\n"
    setting = "  restrict_oom_score_adj = true\n"
    text = base.replace(named, named + setting) if named in base else base + named + setting
    (etc / V3).write_text(text)
    written = containerd.write_config(chosen_for(tmp_path), tmp_path, 37)
    read = tomllib.loads(containerd.for_debian(written).read_text())["plugins"]["io.containerd.grpc.v1.cri"]
    assert read.get("restrict_oom_score_adj", False) is obeyed


def test_nothing_is_restricted_that_k3s_does_not_restrict(containerd: ModuleType, tmp_path: Path) -> None:
    for minor in (28, 37):
        text = containerd.write_config(chosen_for(tmp_path), tmp_path, minor).read_text()
        assert "restrict_oom_score_adj" not in text


BOTH = ["control-plane", "master"]


@pytest.mark.parametrize(("minor", "roles"), [(28, BOTH), (33, BOTH), (34, BOTH[:1]), (37, BOTH[:1])])
def test_a_node_is_master_below_1_34_only(minor: int, roles: list[str]) -> None:
    deploy = importlib.import_module("launcher.deploy")
    chosen = SimpleNamespace(cluster_cidr="10.42.0.0/16")
    labels = json.loads(deploy._node_patch(chosen, minor))["metadata"]["labels"]
    assert sorted(labels) == [f"node-role.kubernetes.io/{role}" for role in roles]


@pytest.mark.parametrize(
    ("flag", "minor", "known"),
    [
        ("disable-helm-controller", 21, False), ("disable-helm-controller", 22, True),
        ("disable-default-registry-endpoint", 25, False), ("disable-default-registry-endpoint", 28, True),
    ],
)  # fmt: skip
def test_a_flag_is_unknown_to_versions_before_it(
    options: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    minor: int,
    known: bool,
) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"], minor)
    assert (f"--{flag}" in capsys.readouterr().out) is known
    if known:
        assert getattr(options.parse(["--config=/dev/null", f"--{flag}"], minor), flag.replace("-", "_"))
        return
    with pytest.raises(SystemExit) as caught:
        options.parse(["--config=/dev/null", f"--{flag}"], minor)
    assert caught.value.code == 1
    assert f'level=fatal msg="flag provided but not defined: -{flag}"' in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(f"{flag}: true\n")
    assert not getattr(options.parse([f"--config={tmp_path}/config.yaml"], minor), flag.replace("-", "_"))
    assert f"Unknown flag --{flag} found in config.yaml, skipping" in capsys.readouterr().err


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed file whose payload is empty programs."""
    root = tmp_path / "root"
    for path in (
        *(f"usr/bin/{it}" for it in ("containerd", "containerd-shim-runc-v2", "ctr")),
        *(f"usr/sbin/{it}" for it in ("runc", "conntrack", "xtables-nft-multi", "xtables-legacy-multi")),
        *(
            f"usr/lib/cni/{it}"
            for it in ("bridge", "host-local", "loopback", "portmap", "bandwidth", "firewall")
        ),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho called as $0 with $KUBECONFIG\n")
    out = tmp_path / "k3s"
    pack(
        out,
        debian_root=root,
        kubernetes=program,
        certs=program,
        yaml_package=Path(yaml.__file__).parent,
        version="v1.28.15+lab1",
        commit="0a1b2c3d",
        go_version="go1.26.6",
    )
    return out


@pytest.mark.parametrize("name", ["k3s", "ff34ea10"])
def test_the_packed_file_tells_its_version_as_k3s_does(packed: Path, name: str) -> None:
    program = packed.rename(packed.with_name(name))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{name} version v1.28.15+lab1 (0a1b2c3d)\ngo version go1.26.6\n"


def test_it_calls_itself_by_the_name_that_it_was_called_by(packed: Path, tmp_path: Path) -> None:
    stored = tmp_path / "ff34ea10"
    stored.symlink_to(packed)
    done = subprocess.run([stored, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "ff34ea10 version v1.28.15+lab1 (0a1b2c3d)\ngo version go1.26.6\n"


def test_it_unpacks_once_and_becomes_kubectl_with_the_nodes_kubeconfig(packed: Path, tmp_path: Path) -> None:
    link = tmp_path / "kubectl"
    link.symlink_to(packed)
    environment = {"PATH": "/usr/bin:/bin", "K3S_DATA_DIR": str(tmp_path / "data")}
    for argv in ([packed, "kubectl", "get"], [link, "get"]):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("with /etc/rancher/k3s/k3s.yaml\n")
    (directory,) = (it for it in (tmp_path / "data/data").iterdir() if it.is_dir() and not it.is_symlink())
    assert (directory / "bin/kubectl").readlink() == Path("kubernetes")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bin/kubernetes of the k3s stand-in is missing"):
        pack(
            tmp_path / "k3s",
            debian_root=tmp_path,
            kubernetes=tmp_path / "none",
            certs=tmp_path,
            yaml_package=tmp_path,
            version="v",
            commit="c",
            go_version="g",
        )
