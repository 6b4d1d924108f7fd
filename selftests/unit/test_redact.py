"""No secret in any sink: registered values, their encodings, and what looks like a token."""

from __future__ import annotations

import base64
import pickle
from urllib.parse import quote

import pytest

from harness.redact import REDACTED, redact, register

VALUE = "p@ss/word+with?chars"


def test_a_secret_shows_itself_nowhere() -> None:
    secret = register(VALUE)
    shown = (str(secret), repr(secret), f"{secret}", f"{[secret]}", str({"token": secret}))
    assert all(VALUE not in text for text in shown)
    assert secret.reveal() == VALUE
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize("before", ["", "a", "ab", "abc:"])
def test_encodings_are_cut_too(before: str) -> None:
    register(VALUE)
    encoded = base64.b64encode(f"{before}{VALUE}".encode()).decode()
    core = base64.b64encode(VALUE.encode()).decode().rstrip("=")[4:-4]
    assert REDACTED in redact(encoded)
    assert core not in redact(encoded)
    assert quote(VALUE, safe="") not in redact(f"https://u:{quote(VALUE, safe='')}@host/")


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


def test_headers_and_url_passwords() -> None:
    assert "abcdefgh" not in redact("Authorization: Bearer abcdefgh")
    assert "abcdefgh" not in redact("PRIVATE-TOKEN: abcdefgh")
    assert redact("http://bob:hunter22@host/x") == f"http://bob:{REDACTED}@host/x"


def test_ordinary_text_stays() -> None:
    text = "pod olm/packageserver-585c78d875-8jsj4 container packageserver: CrashLoopBackOff http://10.99.1.1:80/x"
    assert redact(text) == text
