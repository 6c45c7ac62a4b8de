"""A token spelled, framed or nested in another way than RFC 7515 §7.1 and strict JSON allow (RFC 8725 §2.4, §3.7)."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.attacks.hostile import besieged, records, refusals, still_serves
from tests.support.house import House
from tests.support.vectors import cookbook, needs_vectors

LAST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def next_spelling(segment: str) -> str:
    """Other text for the same bytes: a stray bit set at the end of a base64url segment."""
    return segment[:-1] + LAST[LAST.index(segment[-1]) + 1]


def spellings_of(token: str) -> dict[str, str]:
    """One good token, written in ways that a lenient parser takes for the same."""
    header, payload, signature = token.split(".")
    standard = {"-": "+", "_": "/"}
    other_alphabet = "".join(standard.get(letter, letter) for letter in signature)
    assert other_alphabet != signature
    return {
        "an encrypted token of five segments": f"{header}.{payload}.{signature}.{payload}.{signature}",
        "two segments": f"{header}.{payload}",
        "four segments": f"{token}.{signature}",
        "one segment": header,
        "no payload: detached": f"{header}..{signature}",
        "no signature": f"{header}.{payload}.",
        "no header": f".{payload}.{signature}",
        "dots alone": "." * 1000,
        "a JSON serialisation": json.dumps({"protected": header, "payload": payload, "signature": signature}),
        "a general JSON serialisation": json.dumps({"payload": payload, "signatures": []}),
        "a blank in front": f" {token}",
        "a line feed behind": f"{token}\n",
        "a byte order mark": f"\ufeff{token}",
        "padding": f"{token}==",
        "padding in the header": f"{header}=.{payload}.{signature}",
        "the alphabet of RFC 4648 section 4": f"{header}.{payload}.{other_alphabet}",
        "a stray bit in the signature": f"{header}.{payload}.{next_spelling(signature)}",
        "a full-width digit": f"{header}.{payload}\uff11.{signature}",
        "a Cyrillic letter": f"{header}.{payload}.{signature[:-1]}\u0430",
        "a NUL": f"{header}.{payload}.{signature}\0",
        "a percent escape that stayed": f"{header}%2E{payload}.{signature}",
        "quotes": f'"{token}"',
        "the scheme of a header": f"Bearer {token}",
        "two tokens": f"{token},{token}",
    }


async def test_one_token_has_one_spelling(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = house.pod_token(jti="abc" * 10)
        while not set("-_") & set(token.split(".")[2]):  # the signature is another one each time
            token = house.pod_token()
        assert (await house.gateway.exchange(token))[0] == 200
        reasons = {name: await refusals(house, text) for name, text in spellings_of(token).items()}
        assert set(reasons.values()) == {"malformed_token"}, reasons
        await still_serves(house)


async def test_a_token_is_measured_before_it_is_touched(tmp_path: Path):
    async with besieged(tmp_path) as house:
        claims = house.cluster.claims(house.audience)
        tokens = {
            "16 KiB and more": house.cluster.mint(claims | {"padding": "x" * 12_000}),
            "as many dots as fit": "." * 60_000,
            "a header beyond 2 KiB": house.cluster.mint(claims, header={"padding": "x" * 2_100}),
        }
        assert {name: await refusals(house, token) for name, token in tokens.items()} == dict.fromkeys(
            tokens, "token_too_large"
        )
        largest = house.cluster.mint(claims | {"padding": "x" * 10_000})
        assert (await house.gateway.exchange(largest))[0] == 200


def payloads(claims: dict[str, Any]) -> dict[str, bytes]:
    """What a trusted issuer would sign for an attacker who finds its JSON writer's weak spot."""
    good = json.dumps(claims, separators=(",", ":")).encode()

    def with_member(text: str) -> bytes:
        return good[:-1] + b"," + text.encode() + b"}"

    return {
        "another sub behind the first": with_member('"sub":"system:serviceaccount:billing:invoicer"'),
        "another sub in front": b'{"sub":"system:serviceaccount:kube-system:root",' + good[1:],
        "a name twice further in": with_member('"x":{"a":1,"a":2}'),
        "a name twice, once escaped": with_member('"s\\u0075b":"x"'),
        "NaN": with_member('"x":NaN'),
        "Infinity": with_member('"x":-Infinity'),
        "an exponent": with_member('"x":1E2'),
        "a fraction": with_member('"x":1.0'),
        "more than any float": with_member('"x":1e400'),
        "minus nought": with_member('"x":-0'),
        "five thousand digits": with_member('"x":' + "9" * 5000),
        "a leading nought": with_member('"x":01'),
        "a lone surrogate": with_member('"x":"\\ud800"'),
        "a lone surrogate as a name": with_member('"\\udc00":1'),
        "an escaped NUL": with_member('"x":"a\\u0000b"'),
        "a control character of C1": with_member('"x":"\u009b31m"'),
        "a raw line feed": with_member('"x":"\n"'),
        "an overlong encoding": good[:-1] + b',"x":"\xc0\xaf"}',
        "a surrogate in UTF-8": good[:-1] + b',"x":"\xed\xa0\x80"}',
        "UTF-16": good.decode().encode("utf-16"),
        "UTF-16 without a mark": good.decode().encode("utf-16-le"),
        "UTF-32": good.decode().encode("utf-32"),
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "bytes behind the object": good + b"{}",
        "a NUL behind the object": good + b"\0",
        "an array": b"[" + good + b"]",
        "a string": json.dumps(good.decode()).encode(),
        "null": b"null",
        "nine levels": with_member('"x":' + "[" * 8 + "]" * 8),
        "five thousand levels": with_member('"x":' + "[" * 5000 + "]" * 5000),
        "levels that never close": b'{"x":' * 2000,
        "a comment": good[:-1] + b"/**/}",
        "a comma too many": good[:-1] + b",}",
        "single quotes": good.replace(b'"', b"'"),
        "cut off": good[:-1],
    }


async def test_claims_have_one_meaning_or_none(tmp_path: Path):
    async with besieged(tmp_path) as house:
        cases = payloads(house.cluster.claims(house.audience))
        reasons = {name: await refusals(house, house.cluster.mint(payload)) for name, payload in cases.items()}
        assert set(reasons.values()) == {"malformed_claims"}, reasons
        assert not any(record.get("verified") for record in records(house)), "nothing of it counts as said"
        await still_serves(house)


def compact(header: bytes, token: str) -> str:
    """A token with its header replaced by bytes that no JSON writer makes."""
    return base64.urlsafe_b64encode(header).rstrip(b"=").decode() + token[token.index(".") :]


async def test_a_header_has_one_meaning_or_none(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = house.pod_token()
        good = base64.urlsafe_b64decode(token.split(".")[0] + "==")
        headers = {
            "alg twice": good[:-1] + b',"alg":"none"}',
            "kid twice": good[:-1] + b',"kid":"x"}',
            "NaN": good[:-1] + b',"x":NaN}',
            "UTF-16": good.decode().encode("utf-16"),
            "a byte order mark": b"\xef\xbb\xbf" + good,
            "an array": b"[]",
            "no alg": b"{}",
            "alg is null": b'{"alg":null}',
            "deep": b'{"alg":"ES256","x":' + b"[" * 500 + b"]" * 500 + b"}",
        }
        reasons = {name: await refusals(house, compact(header, token)) for name, header in headers.items()}
        assert set(reasons.values()) == {"malformed_header"}, reasons


async def test_what_a_header_may_not_ask_for(house: House):
    claims = house.cluster.claims(house.audience)
    forbidden: list[dict[str, Any]] = [
        {"crit": []},
        {"crit": ["exp"]},
        {"crit": "exp"},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": "false"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jku": "http://127.0.0.1:1/jwks"},
        {"x5u": "http://169.254.169.254/"},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ]
    for header in forbidden:
        assert await refusals(house, house.cluster.mint(claims, header=header)) == "forbidden_header", header
    for typ in (
        "at+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "logout+jwt",
        "client-authentication+jwt",
        "JWT ",
        "",
        "application/",
    ):
        token = house.cluster.mint(claims, header={"typ": typ})
        assert await refusals(house, token) == "wrong_token_type", typ
    unread = {"x5c": ["AAAA"], "x5t": "AAAA", "epk": {}, "url": "https://evil.example", "nonce": "x"}
    status, _ = await house.gateway.exchange(house.cluster.mint(claims, header=unread))
    assert status == 200, "what is not looked at does no harm"


@needs_vectors
async def test_no_example_of_the_cookbook_buys_a_token(house: House):
    for folder in ("jws", "jwe", "curve25519", "rfc7797"):
        for path in cookbook(folder):
            for form, token in json.loads(path.read_bytes()).get("output", {}).items():
                text = token if isinstance(token, str) else json.dumps(token)
                assert await refusals(house, text), (path.name, form)
