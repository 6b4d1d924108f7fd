"""The key that signs registry tokens, made once per state directory, and its certificate for the registry."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

ISSUER = "gitlab-issuer"
SERVICE = "container_registry"
TOKEN_LIFETIME_S = 300
"""GitLab's container_registry_token_expire_delay, 5 minutes."""


class RegistryKeys:
    """Signs the tokens of /jwt/auth; ``certificate_file`` is what the registry trusts (rootcertbundle)."""

    def __init__(self, directory: Path) -> None:
        self.certificate_file = directory / "registry-token.crt"
        key_file = directory / "registry-token.key"
        if not key_file.exists():
            _make(key_file, self.certificate_file)
        self._key = key_file.read_bytes()
        certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        public = certificate.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        der = certificate.public_bytes(serialization.Encoding.DER)
        # distribution 2 follows x5c; distribution 3 checks x5c and then wants the key known by its RFC 7638
        # thumbprint. With both in the header either accepts the token.
        self._header = {"x5c": [base64.b64encode(der).decode()], "kid": _thumbprint(public)}

    def token(self, subject: str | None, service: str, access: list[dict[str, object]]) -> str:
        """A signed token that grants ``access``."""
        at = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": service,
            "sub": subject or "",
            "iat": at,
            "nbf": at - 5,
            "exp": at + TOKEN_LIFETIME_S,
            "jti": secrets.token_hex(16),
            "access": access,
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers=self._header)


def _make(key_file: Path, certificate_file: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    at = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _thumbprint(public: rsa.RSAPublicKey) -> str:
    """RFC 7638 thumbprint of an RSA key."""
    numbers = public.public_numbers()

    def encoded(value: int) -> str:
        raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    members = {"e": encoded(numbers.e), "kty": "RSA", "n": encoded(numbers.n)}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
