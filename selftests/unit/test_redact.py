"""No secret in any sink: registered values in every form, what looks like a credential, and by structure."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import pickle
import re
from urllib.parse import quote, quote_plus

import pytest

from harness import redact as module
from harness.errors import EnvironmentProblem
from harness.redact import (
    REDACTED,
    Secret,
    redact,
    redact_log_records,
    redact_manifest,
    register,
    register_environment,
    register_url,
)

VALUE = "p@ss/w\"rd+with?chars&<'>\\ü"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_registered", {})
    monkeypatch.setattr(module, "_longest_first", ())


def test_a_secret_shows_itself_nowhere() -> None:
    secret = register(VALUE)
    shown = (str(secret), repr(secret), f"{secret}", f"{[secret]}", str({"token": secret}))
    assert all(VALUE not in text for text in shown)
    assert secret.reveal() == VALUE
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize("before", ["", "a", "ab", "abc:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_cut_at_every_offset_and_twice(before: str, encode: object) -> None:
    register(VALUE)
    once = encode(f"{before}{VALUE}, and more".encode())  # type: ignore[operator]
    core = encode(f"{'0' * (len(before) % 3)}{VALUE}".encode()).decode().rstrip("=")[4:-4]  # type: ignore[operator]
    assert core in once.decode()
    assert core not in redact(once.decode())
    assert core not in redact(json.dumps({"data": once.decode()}))
    twice = base64.b64encode(b'{"auths":{"r":{"auth":"' + once + b'"}}}').decode()
    for piece in redact(twice).split(REDACTED):
        for start in range(4):
            whole = piece[start : start + (len(piece) - start) // 4 * 4]
            assert core not in base64.b64decode(whole).decode(errors="replace")


FORMS = {
    "plain": lambda it: it,
    "URL": lambda it: quote(it, safe=""),
    "path": quote,
    "form": quote_plus,
    "lower-case escapes": lambda it: re.sub("%..", lambda at: at[0].lower(), quote(it, safe="")),
    "JSON": json.dumps,
    "JSON, not only ASCII": lambda it: json.dumps(it, ensure_ascii=False),
    "JSON in JSON": lambda it: json.dumps(json.dumps(it)),
    "HTML": html.escape,
    "HTML text": lambda it: html.escape(it, quote=False),
    "HTML as browsers write it": lambda it: (
        html.escape(it).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    ),
    "Python": repr,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_prints_it_escapes_it(form: str) -> None:
    register(VALUE)
    shown = FORMS[form](VALUE)
    assert redact(f"<{shown}>").replace('"', "").replace("'", "").replace("\\", "") == f"<{REDACTED}>"


def test_each_line_of_a_key_is_cut_alone() -> None:
    lines = ["MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn", "ygWyF8PbnGy0AHB7MhgHcTz6sE2I2yP"]
    register("-----BEGIN X-----\n" + "\n".join(lines) + "\n-----END X-----\n")
    assert redact(f"    {lines[1]}") == f"    {REDACTED}"


@pytest.mark.parametrize(
    "text",
    [
        "glrt-" + "A1b2C3d4E5f6G7h8I9j0",
        "glpat-" + "A1b2C3d4E5f6G7h8I9j0",
        "glcbt-64_" + "A1b2C3d4E5f6G7h8I9j0",
        "eyJ" + "a" * 20 + "." + "b" * 20 + "." + "c" * 20,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_token_is_cut_unregistered(text: str) -> None:
    assert text not in redact(f"before {text} after")
    assert redact(f"before {text} after").endswith(" after")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdefgh", f"Authorization: Bearer {REDACTED}"),
        ("PRIVATE-TOKEN: abcdefgh", f"PRIVATE-TOKEN: {REDACTED}"),
        ("http://bob:hunter22@host/x", f"http://bob:{REDACTED}@host/x"),
        ("http://bob:hun@ter22@host/x", f"http://bob:{REDACTED}@host/x"),
        ("https://abcdefgh@host/x", f"https://{REDACTED}@host/x"),
        ('  token = "abcdefgh"', f'  token = "{REDACTED}"'),
        ('{"id":3,"access_token":"abcdefgh"}', f'{{"id":3,"access_token":"{REDACTED}"}}'),
    ],
)
def test_credentials_are_known_by_their_place(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "pod olm/packageserver-585c78d875-8jsj4: CrashLoopBackOff http://10.99.1.1:80/x",
        "docker.io/library/alpine@sha256:0123456789abcdef",
        "token: jh-gitlab-runner-secret",
        "https://host/group/@someone",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://canary-1@host/x", "canary-1"),
        ("https://user:canary-1@host", "canary-1"),
        ("https://user:can%2Fary-1@host", "can/ary-1"),
        ("https://user:can/ary@-1@host:8080/x", "can/ary@-1"),
    ],
)
def test_credentials_of_a_url_are_registered(url: str, secret: str) -> None:
    assert register_url(url)
    assert secret not in redact(f"refused: {secret}.")


@pytest.mark.parametrize("url", ["https://host/a@b", "https://host:443/a@b", "host", "https://host?x=a@b"])
def test_a_url_without_credentials_registers_nothing(url: str) -> None:
    assert not register_url(url)


def test_the_environment_is_registered_by_its_names() -> None:
    register_environment(
        {
            "CI_JOB_TOKEN": "canary-one",
            "HTTPS_PROXY": "http://u:canary-two@proxy:3128",
            "TOKEN_FILE": "canary-three",
            "SSH_KEY_PASSWORD": "/run/secrets/canary-four",
        }
    )
    assert redact("canary-one canary-two") == f"{REDACTED} {REDACTED}"
    assert redact("canary-three /run/secrets/canary-four") == "canary-three /run/secrets/canary-four"


def test_secrets_of_kubernetes_are_cut_by_structure() -> None:
    listed = {
        "kind": "List",
        "items": [
            {
                "kind": "Secret",
                "metadata": {
                    "name": "s",
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary-1"},
                },
                "data": {"k": "canary-2"},
                "stringData": {"k": "canary-3"},
            },
            {"kind": "Pod", "spec": {"containers": [{"env": [{"name": "CI_TOKEN", "value": "canary-4"}]}]}},
        ],
    }
    found = redact_manifest(listed)
    assert "canary" not in json.dumps(found)
    assert found["items"][0]["metadata"]["name"] == "s"
    assert set(found["items"][0]["data"]) == {"k"}
    assert "canary-2" in json.dumps(listed)


def test_a_log_record_is_cut_when_it_is_made() -> None:
    """Whatever handler somebody adds afterwards."""
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    log = logging.getLogger("test.redact")
    log.propagate = False
    log.addHandler(logging.StreamHandler(stream))
    secret = Secret("s3cr3t-in-a-log")
    try:
        redact_log_records()
        try:
            raise EnvironmentProblem(f"login with {secret.reveal()} failed")
        except EnvironmentProblem:
            log.exception("used %s", secret.reveal(), stack_info=True)
        log.warning("%d is no number", secret.reveal())
    finally:
        logging.setLogRecordFactory(before)
        log.handlers.clear()
    assert secret.reveal() not in stream.getvalue()
    assert "Traceback" in stream.getvalue()
