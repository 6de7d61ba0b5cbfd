"""Certificates that close a Ray cluster's gRPC ports: one authority, and one certificate a node.

Ray's TLS is mutual: whoever connects has to show a certificate of the same authority. The
authority's private key issues certificates and stays off the nodes; a node gets its own key, its
certificate, and the authority's certificate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from codex_ray.errors import InputError
from codex_ray.records.private_files import create_file, private_folder, read_private

AUTHORITY_DAYS: Final = 365
NODE_DAYS: Final = 30
SKEW: Final = timedelta(hours=1)
"""How far the clocks of two nodes may differ: certificates are valid from so long ago."""
HERE: Final = ("localhost", "127.0.0.1")
"""Names that every node has for itself, and Ray's processes use between them."""


@dataclass(frozen=True)
class Authority:
    """What issues certificates: its own, and the key that signs the others."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True)
class NodeFiles:
    """The three files that a node needs, and a driver too."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def under(cls, folder: Path) -> NodeFiles:
        """Those that `issue` writes into `folder`."""
        return cls(folder / "node.pem", folder / "node-key.pem", folder / "ca.pem")

    @classmethod
    def named_by(cls, environment: Mapping[str, str]) -> NodeFiles | None:
        """Those that the environment names for Ray; None where it asks for no TLS.

        Raises:
            InputError: TLS is half set: Ray would then hang, or speak in the clear.
        """
        use = environment.get("RAY_USE_TLS", "")
        named = [environment.get(name, "") for name in FILE_VARIABLES]
        missing = [name for name, file in zip(FILE_VARIABLES, named, strict=True) if not file]
        if use in ("", "0") and len(missing) == len(FILE_VARIABLES):
            return None
        if use not in ("1", "true"):
            raise InputError(
                f"TLS is half set: the environment names files, but RAY_USE_TLS is {use!r}: "
                "set RAY_USE_TLS=1, or unset RAY_TLS_*"
            )
        if missing:
            raise InputError(
                f"TLS is half set: RAY_USE_TLS is {use}, but {', '.join(missing)} not set: set it "
                "as codex-ray certs issue says, or unset RAY_USE_TLS"
            )
        return cls(*[Path(file) for file in named])

    @property
    def environment(self) -> dict[str, str]:
        """What Ray has to find in its environment, on every node and at every driver."""
        files = (self.certificate, self.key, self.authority)
        named = {name: str(file) for name, file in zip(FILE_VARIABLES, files, strict=True)}
        return {"RAY_USE_TLS": "1"} | named


FILE_VARIABLES: Final = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
"""In the order of the fields of `NodeFiles`."""


def make_authority(
    folder: Path, *, days: int = AUTHORITY_DAYS, now: datetime | None = None
) -> Authority:
    """A new authority, kept in `folder` (ca.pem, and ca-key.pem for its owner alone).

    Raises:
        InputError: there is one already, or the folder is open to others or cannot be written.
    """
    key = generate_private_key(SECP256R1())
    name = _name("codex-ray cluster authority")
    public = key.public_key()
    certificate = (
        _valid(x509.CertificateBuilder(), days=days, now=now)
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    private_folder(folder)
    create_file(folder / "ca-key.pem", _private_pem(key), mode=0o600)
    create_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)
    return Authority(certificate, key)


def read_authority(folder: Path) -> Authority:
    """The authority that is kept in `folder`.

    Raises:
        InputError: there is none, or others may read its key.
    """
    if not (folder / "ca-key.pem").exists():
        raise InputError(f"{folder}: there is no authority: make one with codex-ray certs init")
    key = _read_key(folder / "ca-key.pem")
    certificate = read_certificate(folder / "ca.pem")
    if not _belong(certificate, key):
        raise InputError(f"{folder}: ca.pem and ca-key.pem do not belong together")
    return Authority(certificate, key)


def issue(
    authority: Authority,
    folder: Path,
    *,
    names: Sequence[str],
    days: int = NODE_DAYS,
    now: datetime | None = None,
    opens_cluster: bool = True,
) -> NodeFiles:
    """The files of a node that goes by `names`, in `folder`, which holds nothing of the sort yet.

    Args:
        authority: who signs.
        folder: where to; it travels to the node as it is.
        names: IP addresses and DNS names; Ray calls a node by the address that `ray start` prints.
        days: how long it is good for, and never longer than the authority's.
        now: when it begins; by default now.
        opens_cluster: whether it may call nodes, too. One that faces the public only answers: who
            steals its key is nobody to a cluster, even if that trusts the same authority.

    Raises:
        InputError: a name is none, or there are files already, or the authority has expired.
    """
    began = now or datetime.now(UTC)
    last = authority.certificate.not_valid_after_utc
    if last <= began:
        raise InputError(f"the authority expired on {last:%Y-%m-%d}: make a new one (certs init)")
    key = generate_private_key(SECP256R1())
    public = key.public_key()
    signer = authority.key.public_key()
    usage = [ExtendedKeyUsageOID.SERVER_AUTH]
    if opens_cluster:
        usage.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    certificate = (
        _valid(x509.CertificateBuilder(), days=days, now=began, last=last)
        .subject_name(_name("codex-ray cluster node" if opens_cluster else "codex-ray server"))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    files = NodeFiles.under(private_folder(folder))
    create_file(files.key, _private_pem(key), mode=0o600)
    create_file(files.certificate, certificate.public_bytes(Encoding.PEM), mode=0o644)
    create_file(files.authority, authority.certificate.public_bytes(Encoding.PEM), mode=0o644)
    return files


def check_node(files: NodeFiles, *, now: datetime | None = None) -> datetime:
    """When the node's certificate expires, if its files are in order and belong together.

    Raises:
        InputError: one cannot be read, others may read the key, it is another key or authority, or
            a certificate is not valid now.
    """
    at = now or datetime.now(UTC)
    certificate = read_certificate(files.certificate)
    authority = read_certificate(files.authority)
    if not _belong(certificate, _read_key(files.key)):
        raise InputError(f"{files.key}: is not the key of {files.certificate}")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise InputError(
            f"{files.certificate}: was not issued by {files.authority}: issue it anew there"
        ) from None
    for file, one in ((files.certificate, certificate), (files.authority, authority)):
        if not one.not_valid_before_utc <= at < one.not_valid_after_utc:
            raise InputError(
                f"{file}: is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} to "
                f"{one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, not now: issue another with "
                "codex-ray certs issue"
            )
    return min(certificate.not_valid_after_utc, authority.not_valid_after_utc)


def read_certificate(file: Path) -> x509.Certificate:
    """The certificate in a PEM file.

    Raises:
        InputError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{file}: is no certificate in PEM") from None


def names_in(certificate: x509.Certificate) -> list[str]:
    """What a node's certificate calls it."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def _read_key(file: Path) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_private(file), password=None)
    except (ValueError, TypeError):
        raise InputError(f"{file}: is no unencrypted private key in PEM") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise InputError(f"{file}: is no elliptic-curve key: make one with codex-ray certs")
    return key


def _belong(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def _valid(
    builder: x509.CertificateBuilder,
    *,
    days: int,
    now: datetime | None,
    last: datetime | None = None,
) -> x509.CertificateBuilder:
    """The builder with a serial number and a time; never past `last`."""
    if not 1 <= days <= 3650:
        raise InputError(f"--days {days}: a certificate is valid for 1 to 3650 days")
    began = now or datetime.now(UTC)
    ends = began + timedelta(days=days)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(began - SKEW)
        .not_valid_after(ends if last is None else min(ends, last))
    )


def _names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Each name as an address or a DNS name, and those of the machine for itself."""
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys([*names, *HERE]):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            label = name.removeprefix("*.").replace(".", "").replace("-", "")
            if not (label.isascii() and label.isalnum() and len(name) <= 253):
                raise InputError(f"{name!r}: is neither an IP address nor a DNS name") from None
            found.append(x509.DNSName(name))
    return found


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
