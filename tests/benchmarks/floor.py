"""The floor: an aiohttp handler that parses the same form, does the cryptography that the request needs with
``cryptography`` and ``hashlib`` directly (the check named on the command line, and one ES256 signature), and nothing
else.

Prints the port that it listens on. What the gateway reaches of its throughput is the number in the README.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import sys
from collections.abc import Callable
from hmac import compare_digest
from urllib.parse import parse_qsl

import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PKCS1V15, SHA_256, ECDSA = padding.PKCS1v15(), SHA256(), ec.ECDSA(SHA256())
HEADER = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"at+jwt"}').rstrip(b"=")
PAYLOAD = base64.urlsafe_b64encode(json.dumps({
    "iss": "https://sts.example.com", "sub": "web-deploy", "client_id": "web-deploy", "aud": "https://deploy.example.com",
    "iat": 1793610000, "nbf": 1793610000, "exp": 1793610900, "jti": "AAAAAAAAAAAAAAAAAAAAAA", "scope": "deploy:write",
}).encode()).rstrip(b"=")  # fmt: skip

Form = dict[str, str]
Check = Callable[[Form], None]
"""Raises for a form whose credential is not good."""


def rs256_token(public_pem: str) -> Check:
    """``subject_token`` is signed with RS256."""
    public_key = load_pem_public_key(public_pem.encode())
    assert isinstance(public_key, rsa.RSAPublicKey)

    def check(form: Form) -> None:
        signing_input, _, signature = form["subject_token"].rpartition(".")
        public_key.verify(decode(signature), signing_input.encode(), PKCS1V15, SHA_256)

    return check


def es256_assertion(public_pem: str) -> Check:
    """``client_assertion`` is signed with ES256."""
    public_key = load_pem_public_key(public_pem.encode())
    assert isinstance(public_key, ec.EllipticCurvePublicKey)

    def check(form: Form) -> None:
        signing_input, _, segment = form["client_assertion"].rpartition(".")
        signature = decode(segment)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public_key.verify(encode_dss_signature(r, s), signing_input.encode(), ECDSA)

    return check


def secret(digest: str) -> Check:
    """``client_secret`` has this SHA-256, in hexadecimal."""

    def check(form: Form) -> None:
        if not compare_digest(hashlib.sha256(form["client_secret"].encode()).hexdigest(), digest):
            raise web.HTTPUnauthorized

    return check


def nothing(_: str) -> Check:
    """What was sent is not looked at."""
    return lambda _: None


CHECKS: dict[str, Callable[[str], Check]] = {
    "rs256-token": rs256_token,
    "es256-assertion": es256_assertion,
    "secret": secret,
    "nothing": nothing,
}


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


async def serve(check: Check) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())

    async def token(request: web.Request) -> web.Response:
        check(dict(parse_qsl((await request.read()).decode())))
        r, s = decode_dss_signature(private_key.sign(HEADER + b"." + PAYLOAD, ECDSA))
        made = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).rstrip(b"=")
        body = {"access_token": b".".join((HEADER, PAYLOAD, made)).decode(), "token_type": "Bearer", "expires_in": 900}
        return web.json_response(body)

    application = web.Application()
    application.router.add_post("/token", token)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("evidence", nargs="?", default="", help="the public key in PEM, or the digest")
    arguments = parser.parse_args()
    try:
        uvloop.run(serve(CHECKS[arguments.check](arguments.evidence)))
    except KeyboardInterrupt:
        sys.exit(0)
