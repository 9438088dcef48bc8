"""The certificates and keys of a test control plane: one authority, elliptic-curve keys, a day of validity."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority", "KeyPair", "write_key_pair"]

VALID = dt.timedelta(days=1)
SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
SERVER_ADDRESSES = ("127.0.0.1", "10.96.0.1")
AUTHORITY_USAGE = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Two PEM files; `certificate` is a public key where no authority signed it."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in `folder`; every file it writes stays there."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(self._subject, issuer=self._subject, key=self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(AUTHORITY_USAGE, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = _write(folder, name=name, certificate=certificate, key=self._key)

    def issue_server(self, name: str) -> KeyPair:
        """A certificate for servers on loopback."""
        names: list[x509.GeneralName] = [x509.DNSName(dns) for dns in SERVER_NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in SERVER_ADDRESSES]
        return self._issue(name, organisation=None, names=names, usage=ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(self, name: str, *, organisation: str | None = None) -> KeyPair:
        """A client certificate: Kubernetes takes the common name as user and the organisation as group."""
        return self._issue(name, organisation=organisation, names=[], usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, name: str, *, organisation: str | None, names: list[x509.GeneralName], usage: x509.ObjectIdentifier
    ) -> KeyPair:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organisation is not None:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(x509.Name(attributes), issuer=self._subject, key=key)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(authority, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return _write(self._folder, name=name, certificate=certificate, key=key)


def write_key_pair(folder: Path, *, name: str) -> KeyPair:
    """A bare key pair, such as the one that signs service account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = folder / f"{name}.pub"
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return KeyPair(certificate=public, key=_write_key(folder, name=name, key=key))


def _builder(subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - servers check certificates by the real clock
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _write(folder: Path, *, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    path = folder / f"{name.replace(':', '-')}.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return KeyPair(certificate=path, key=_write_key(folder, name=name, key=key))


def _write_key(folder: Path, *, name: str, key: ec.EllipticCurvePrivateKey) -> Path:
    path = folder / f"{name.replace(':', '-')}.key"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
