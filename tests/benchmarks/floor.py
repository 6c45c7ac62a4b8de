"""The floor: an aiohttp handler that parses the same form, verifies one RS256 signature, makes one ES256 signature
with ``cryptography`` directly, and does nothing else. With ``--without-verification`` it only signs.

Prints the port that it listens on. What the gateway reaches of its throughput is the number in the README.
"""

import argparse
import asyncio
import base64
import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PKCS1V15, SHA_256, ECDSA = padding.PKCS1v15(), SHA256(), ec.ECDSA(SHA256())
HEADER = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"at+jwt"}').rstrip(b"=")
PAYLOAD = base64.urlsafe_b64encode(json.dumps({
    "iss": "https://sts.example.com", "sub": "web-deploy", "client_id": "web-deploy", "aud": "https://deploy.example.com",
    "iat": 1793610000, "nbf": 1793610000, "exp": 1793610900, "jti": "AAAAAAAAAAAAAAAAAAAAAA", "scope": "deploy:write",
}).encode()).rstrip(b"=")  # fmt: skip


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


async def serve(public_key_file: Path, *, verify: bool) -> None:
    public_key = load_pem_public_key(public_key_file.read_bytes())
    private_key = ec.generate_private_key(ec.SECP256R1())

    async def token(request: web.Request) -> web.Response:
        form = dict(parse_qsl((await request.read()).decode()))
        if verify:
            signing_input, _, signature = form["subject_token"].rpartition(".")
            public_key.verify(decode(signature), signing_input.encode(), PKCS1V15, SHA_256)
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
    parser.add_argument("public_key", type=Path)
    parser.add_argument("--without-verification", action="store_true")
    arguments = parser.parse_args()
    try:
        uvloop.run(serve(arguments.public_key, verify=not arguments.without_verification))
    except KeyboardInterrupt:
        sys.exit(0)
