"""What workloads send: tokens shaped like GitHub's and like a pod's; and policies of any size about them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from gateway.standin.shapes import github_actions_claims, kubernetes_claims

ISSUER = "https://sts.example.com"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
KEY_ID = "benchmark"
STRANGER = rsa.generate_private_key(65537, 2048)
"""Signs with a key that no issuer publishes."""

RESOURCE = """kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {deploy:read: Read, deploy:write: Write}
"""
ACCOUNT = """---
kind: ServiceAccount
name: repository-{number}
owner: team-{number}@example.com
access: [{{resource: deploy-api, scopes: [deploy:read, deploy:write]}}]
trust:
  - name: production
    issuer: github
    match: {{repository_id: "{number}", repository_owner_id: "100200", environment: [production, staging]}}
    like: {{ref: refs/heads/**}}
    when: claims.event_name == "push"
"""
POD_ACCOUNT = """---
kind: ServiceAccount
name: invoicer
access: [{resource: deploy-api, scopes: [deploy:read]}]
trust: [{issuer: cluster, match: {sub: "system:serviceaccount:billing:invoicer"}}]
"""


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def write_policies(folder: Path, key: rsa.RSAPrivateKey, accounts: int, *, per_file: int = 10) -> None:
    """An issuer each for GitHub and a cluster, and so many service accounts in files of a few each."""
    folder.mkdir(parents=True, exist_ok=True)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    (folder / "keys.json").write_text(json.dumps({"keys": [{**jwk, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}))
    (folder / "issuers.yaml").write_text(
        "kind: Issuer\nname: github\npreset: github-actions\nmax_token_lifetime: 2h\nmax_token_age: 2h\n"
        "keys: {jwks_file: keys.json}\n---\n"
        "kind: Issuer\nname: cluster\npreset: kubernetes\nurl: https://kubernetes.default.svc.cluster.local\n"
        "keys: {jwks_file: keys.json}\n"
    )
    (folder / "resources.yaml").write_text(RESOURCE)
    (folder / "pods.yaml").write_text(POD_ACCOUNT)
    for first in range(0, accounts, per_file):
        subfolder = folder / f"team-{first // 10_000}"
        subfolder.mkdir(exist_ok=True)
        numbers = range(first, min(first + per_file, accounts))
        (subfolder / f"accounts-{first}.yaml").write_text("".join(ACCOUNT.format(number=number) for number in numbers))


def github_forms(key: rsa.RSAPrivateKey, now: int, count: int, accounts: int, *, denied: bool = False) -> list[str]:
    """Forms with fresh tokens of jobs in ``accounts`` repositories, signed on every core.

    Denied ones are a third each: expired, badly signed, of a repository that no rule names.
    """
    sign = _denied_forms if denied else _granted_forms
    chunks = [(key, now, first, min(first + 1000, count), accounts) for first in range(0, count, 1000)]
    with ThreadPoolExecutor() as pool:
        return [form for forms in pool.map(lambda chunk: sign(*chunk), chunks) for form in forms]


def _granted_forms(key: rsa.RSAPrivateKey, now: int, first: int, last: int, accounts: int) -> list[str]:
    forms = []
    for number in range(first, last):
        claims = github_actions_claims(now, ISSUER, repository_id=str(number % accounts), exp=now + 3600)
        forms.append(form_of(jwt.encode(claims, key, "RS256", {"kid": KEY_ID})))
    return forms


def _denied_forms(key: rsa.RSAPrivateKey, now: int, first: int, last: int, _accounts: int) -> list[str]:
    forms = []
    for number in range(first, last):
        kind = number % 3
        claims = github_actions_claims(now if kind else now - 7200, ISSUER, repository_id="999999999")
        forms.append(form_of(jwt.encode(claims, STRANGER if kind == 1 else key, "RS256", {"kid": KEY_ID})))
    return forms


def github_token(key: rsa.RSAPrivateKey, now: int) -> str:
    """One token of the first repository."""
    claims = github_actions_claims(now, ISSUER, repository_id="0", exp=now + 3600)
    return jwt.encode(claims, key, "RS256", {"kid": KEY_ID})


def pod_form(key: rsa.RSAPrivateKey, now: int) -> str:
    return form_of(jwt.encode(kubernetes_claims(now, ISSUER), key, "RS256", {"kid": KEY_ID}))


def form_of(token: str) -> str:
    return urlencode({"grant_type": TOKEN_EXCHANGE, "subject_token_type": JWT, "subject_token": token})
