"""Mutated profiles, kubeconfigs, bundles, states, journals, URLs, token files: a sentence, no traceback.

40 of each kind, or 1,000 (`tox -e fuzz`). The seed is in a failure's message, and
RUNNER_CONFORMANCE_FUZZ_SEED names it again.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import journal as journals
from harness import kubeconfig
from harness.artifacts.bundle import Bundle
from harness.artifacts.storage import OCI_CONFIG, Storage, image_manifest, sha256_file
from harness.errors import EXIT_ENVIRONMENT, EXIT_USAGE, HarnessError
from harness.inputs import gitlab_url, token_in
from harness.options import ProvisionOptions
from harness.profile import PROFILES_DIR, load_profile
from harness.state import StackState

COUNT = 1000 if os.environ.get("RUNNER_CONFORMANCE_FUZZ") == "whole" else 40
SEED = int(os.environ.get("RUNNER_CONFORMANCE_FUZZ_SEED", "0")) or random.SystemRandom().randrange(
    1, 1_000_000
)

VALUES = (
    *(
        b"",
        b"[]",
        b"{}",
        b"null",
        b"-1",
        b"true",
        b"=",
        b": ",
        b"*",
        b"?",
        b"'",
        b'"',
        b"\\",
        b"\n",
        b"---\n",
    ),
    *(b'"\\u0000"', b"\x00", b"\xff\xfe", b"\xf0\x9f\x92\xa9", b"9" * 5000, b"1e999"),
    *(b"[" * 300, b"{" * 300, b'"' + b"a" * 70_000 + b'"', b"../../etc/passwd", b"files/../../x"),
    *(b"&a [*a]", b"!!python/none x", b"2024-13-45T99:99:99Z"),
)

KUBECONFIG = b"""apiVersion: v1
kind: Config
current-context: c
clusters:
- name: k
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: LS0tLS1CRUdJTiBYLS0tLS0K}
users:
- name: u
  user:
    token: abcdefgh
    client-key-data: LS0tLS1CRUdJTiBYLS0tLS0K
    client-certificate-data: LS0tLS1CRUdJTiBYLS0tLS0K
contexts:
- name: c
  context: {cluster: k, user: u}
"""


def mutated(dice: random.Random, data: bytes) -> bytes:
    """One to four changes: bits, cuts, repeats, and values that parsers dislike in the place of others."""
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((0, 1, 4, 20, 200)))
        words = data.split()
        match dice.randrange(6):
            case 0:
                data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + data[at:end] * dice.choice((2, 50)) + data[end:]
            case 3:
                data = data[:at] + dice.choice(VALUES) + data[end:]
            case 4 if words:
                data = data.replace(dice.choice(words), dice.choice(VALUES), 1)
            case _:
                lines = data.splitlines(keepends=True)
                dice.shuffle(lines)
                data = b"".join(lines)
    return data


def bundle(top: Path) -> bytes:
    """A small bundle; its listing."""
    file = top / "files/k3s"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"k3s")
    storage = Storage(top / "registry")
    config = storage.put_blob(b"{}", OCI_CONFIG)
    digest = storage.put_manifest("docker.io/library/x", image_manifest(config, []), "v1")
    text = (
        'format = 1\nprofile = "seed"\narchitecture = "amd64"\n'
        f"created = {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n"
        '[[component]]\nname = "k3s"\nversion = "v1.28.5+k3s1"\nprovenance = "real"\nsource = "here"\n'
        f'[[file]]\npath = "files/k3s"\ncomponent = "k3s"\nsha256 = "{sha256_file(file)}"\n'
        f'[[image]]\nref = "docker.io/library/x:v1"\ncomponent = "k3s"\ndigest = "{digest}"\n'
    )
    return text.encode()


def state() -> bytes:
    options = {**vars(ProvisionOptions(name="a")), "overrides": {}}
    data = {"format": 2, "name": "a", "run_id": "rc-00000001", "pid": 1, "created": "x", "options": options}
    return json.dumps({**data, "artifacts": "/b", "kubeconfig": "", "context": None, "layers": {}}).encode()


def journal() -> bytes:
    head = {"format": 1, "run_id": "rc-00000001", "name": "a", "created": "x", "boot_id": "b", "pid": 1}
    lines = [{**head, "start_ticks": 1, "state_dir": "/x", "beside": ""}]
    lines += [{"make": "link", "name": "x", "where": ""}, {"place": "GitLab", "url": "x"}, {"keep": True}]
    return "\n".join(map(json.dumps, lines)).encode()


def read_profile(path: Path) -> object:
    return load_profile(path)


def read_bundle(path: Path) -> object:
    return Bundle.open(path.parent, machine="x86_64")


KINDS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "profile": ("p.toml", lambda top: (PROFILES_DIR / "seed.toml").read_bytes(), read_profile),
    "kubeconfig": ("config", lambda top: KUBECONFIG, lambda path: kubeconfig.load(path, "c").close()),
    "bundle": ("bundle.toml", bundle, read_bundle),
    "state": ("stack.json", lambda top: state(), lambda path: StackState.load(path.parent)),
    "journal": ("rc-00000001.jsonl", lambda top: journal(), journals.load),
    "token": ("token", lambda top: b"glpat-0123456789\n", token_in),
    "URL": (
        "url",
        lambda top: b"https://gitlab.example:8443/path",
        lambda path: gitlab_url(path.read_text("latin-1")),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_mutated_is_read_or_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    name, make, read = KINDS[kind]
    top = tmp_path / "top"
    top.mkdir()
    good = make(top)
    path = top / name
    path.write_bytes(good)
    read(path)
    dice, refused = random.Random(f"{SEED} {kind}"), list[HarnessError]()
    for number in range(COUNT):
        data = mutated(dice, good)
        path.write_bytes(data)
        try:
            read(path)
        except HarnessError as error:
            refused.append(error)
        except Exception as error:
            name = type(error).__name__
            raise AssertionError(f"seed {SEED}, {kind} number {number}: {name}: {data[:3000]!r}") from error
    assert {it.exit_code for it in refused} <= {EXIT_USAGE, EXIT_ENVIRONMENT}, SEED
    long = [it.message[:300] for it in refused if not 0 < len(it.message) < 1500]
    assert long == [], SEED
    assert len(refused) > COUNT // 20, f"only {len(refused)} of {COUNT} were refused"


@pytest.mark.parametrize("kind", [it for it in KINDS if it not in ("URL", "journal")])
@pytest.mark.parametrize("shape", ["directory", "FIFO", "device", "loop", "large"])
def test_what_is_no_file_of_use_is_refused_at_once(kind: str, shape: str, tmp_path: Path) -> None:
    name, make, read = KINDS[kind]
    top = tmp_path / "top"
    top.mkdir()
    make(top)
    path = top / name
    if shape == "directory":
        path.mkdir()
    elif shape == "FIFO":
        os.mkfifo(path)
    elif shape == "device":
        path.symlink_to("/dev/zero")
    elif shape == "loop":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.truncate(200_000_000)
    with pytest.raises(HarnessError) as caught:
        read(path)
    assert caught.value.exit_code in (EXIT_USAGE, EXIT_ENVIRONMENT)
