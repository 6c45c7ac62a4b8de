"""A gateway that ends TLS itself, with classic clients of every method, as unmodified client libraries find it.

It listens where its issuer URL says, so that whoever begins with the metadata arrives.
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import trustme
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.clock import SteadyClock
from gateway.jose.thumbprint import certificate_thumbprint
from gateway.oauth.client_secret import secret_digest
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.certificates import issue
from tests.support.parts import free_port
from tests.support.running import RunningGateway, running, settings
from tests.support.tokens import ABSENT, SigningIssuer

LEDGER = "https://ledger.example.com"
SECRET = "wigs_plain.secret~of-one-kind"
ODD_SECRET = "grüße %+:&=/"
"""What the three encodings of Basic credentials in use disagree on."""
OTHER_SECRET = "wigs_secret.of.another.client"
LEDGER_SECRET = "wigs_secret.of.the.api"

SIGNER = SigningIssuer("ES256", number=40, url="signer", kid="signer-1")
OLD_SIGNER = SigningIssuer("ES256", number=41, url="old-signer", kid="old-signer-1")
CERTIFIED = SigningIssuer("RS256", number=42, url="certified", kid="certified-1")
SELF_SIGNED = issue()
MACHINE = "machine.example.com"


def private_jwk(signer: SigningIssuer) -> dict[str, Any]:
    """The private key of a client as a JWK, for libraries that take one."""
    return jwt.algorithms.ECAlgorithm.to_jwk(signer.key, as_dict=True) | {"kid": signer.kid, "alg": signer.algorithm}


def private_pem(signer: SigningIssuer) -> str:
    """The private key of a client as PKCS #8, for libraries that take that."""
    return signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@dataclass(frozen=True)
class ClassicGateway:
    """The gateway, the cluster that it trusts, and what its clients need to know of it."""

    gateway: RunningGateway
    cluster: StandInIssuer
    authority: trustme.CA
    url: str
    """The issuer URL."""
    folder: Path

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    @property
    def ca_file(self) -> str:
        """The CA of the gateway's certificate."""
        return str(self.folder / "ca.pem")

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.jsonl"

    def pod_token(self) -> str:
        return self.cluster.token(self.url)

    def client_certificate(self, name: str) -> tuple[Path, Path]:
        """Files with the certificate chain and the private key: of a CA for ``name``, or the registered one."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if name == "self-signed":
            certificate.write_bytes(SELF_SIGNED.pem)
            key.write_bytes(SELF_SIGNED.pem_with_key.removeprefix(SELF_SIGNED.pem))
        else:
            issued = self.authority.issue_cert(name)
            certificate.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(key)
        return certificate, key

    def tls(self, name: str | None = None) -> ssl.SSLContext:
        """A client's TLS context, with the client certificate of ``name``."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if name is not None:
            context.load_cert_chain(*self.client_certificate(name))
        return context

    def claims(self, access_token: str) -> dict[str, Any]:
        """The claims of a token after a verification with the published keys, as an API makes it."""
        keys = jwt.PyJWKClient(f"{self.url}/.well-known/jwks.json", ssl_context=self.tls())
        key = keys.get_signing_key_from_jwt(access_token)
        return jwt.decode(access_token, key, algorithms=["ES256"], audience=LEDGER, issuer=self.url)


def _policies(cluster: StandInIssuer) -> list[dict[str, Any]]:
    def account(name: str, **members: Any) -> dict[str, Any]:
        access = [{"resource": "ledger-api", "scopes": ["ledger:read", "ledger:write"]}]
        return {"kind": "ServiceAccount", "name": name, "access": access, **members}

    def secrets(*texts: str) -> dict[str, Any]:
        return {"secrets": [{"id": f"s{n}", "digest": secret_digest(text)} for n, text in enumerate(texts, 1)]}

    old = {"accept_token_endpoint_audience": True, "max_assertion_lifetime": "1h"}
    certificates = [{"san_dns": MACHINE}, {"thumbprint": certificate_thumbprint(SELF_SIGNED.der)}]
    return [
        {
            "kind": "Issuer", "name": "cluster", "preset": "kubernetes", "url": cluster.issuer,
            "keys": {"discovery_url": cluster.discovery_url, "private_network": True},
        },
        {
            "kind": "Resource", "name": "ledger-api", "identifier": LEDGER, "served_by": ["ledger"],
            "scopes": {"ledger:read": "Read", "ledger:write": "Write"},
        },
        account("batch", credentials=secrets(SECRET, ODD_SECRET)),
        account("other", credentials=secrets(OTHER_SECRET)),
        account("ledger", credentials=secrets(LEDGER_SECRET)),
        account("signer", credentials={"keys": {"jwks": SIGNER.jwks()}}),
        account("old-signer", credentials={"keys": {"jwks": OLD_SIGNER.jwks(), **old}}),
        account("certified", credentials={"keys": {
            "jwks": {"keys": [CERTIFIED.jwk(alg=ABSENT)]},
            "algorithms": ["RS256", "PS256"], "replay": "allow", **old,
        }}),
        account("machine", credentials={"certificates": certificates}),
        account("invoicer", trust=[
            {"issuer": "cluster", "match": {"sub": "system:serviceaccount:billing:invoicer"}},
        ]),
    ]  # fmt: skip


@asynccontextmanager
async def classic_gateway(
    folder: Path, path: str = "", policies: Iterable[dict[str, Any]] = (), **overrides: Any
) -> AsyncIterator[ClassicGateway]:
    """Starts the gateway and the cluster; stops both.

    ``path`` is that of the issuer URL, ``policies`` are documents beside those of above, the rest are settings.
    """
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock())
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(one.bytes() for one in server.cert_chain_pems))
    server.private_key_pem.write_to_path(folder / "tls.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "pinned.pem").write_bytes(SELF_SIGNED.pem)
    address = f"127.0.0.1:{free_port()}"
    values: dict[str, Any] = {
        "issuer": f"https://{address}{path}",
        "listen": address,
        "tls": {"certificate": folder / "tls.crt", "key": folder / "tls.key", "client_ca": folder / "ca.pem",
                "client_certificates": folder / "pinned.pem"},
    }  # fmt: skip
    configured = settings(folder, **{**values, **overrides})
    async with StandInServer(cluster):
        (folder / "policies").mkdir()
        (folder / "policies" / "policies.yaml").write_text(yaml.safe_dump_all([*_policies(cluster), *policies]))
        async with running(configured) as gateway:
            yield ClassicGateway(gateway, cluster, authority, configured.issuer, folder)
