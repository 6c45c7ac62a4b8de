"""Who signed it: algorithms that the token chooses, keys that protect nothing, keys of others (RFC 8725 §3.1)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.standin.issuer import StandInIssuer
from gateway.standin.keys import new_signing_key, thumbprint
from gateway.standin.shapes import ABSENT
from tests.attacks.hostile import besieged, exchange_form, records, refusals, refused, still_serves
from tests.support.house import House
from tests.support.running import ISSUER
from tests.support.tokens import base64url, compact, encode_json, private_key, public_jwk, sign
from tests.support.vectors import needs_vectors, wycheproof

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{base64url(signature)}"


def signature_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")


async def test_no_token_chooses_its_algorithm(house: House):
    claims = house.cluster.claims(house.audience)
    for alg in (
        "none",
        "None",
        "nOnE",
        "NONE",
        "",
        "HS256",
        "HS512",
        "ES256",
        "PS256",
        "ES256K",
        "dir",
        "RSA1_5",
        "A" * 99,
    ):
        token = house.cluster.mint(claims, header={"alg": alg})
        for text in (token, f"{token.rpartition('.')[0]}.AA"):
            assert await refusals(house, text) in {"algorithm_not_allowed", "bad_signature"}, alg
    for alg in (None, ["RS256"], {"RS256": 1}, 1, True):
        assert await refusals(house, house.cluster.mint(claims, header={"alg": alg})) == "malformed_header", alg
    await still_serves(house)


async def test_a_public_key_is_no_shared_secret(house: House):
    """CVE-2022-29217 and its kin: HS256 with any text form of the RSA key."""
    key = house.github.signing_key()
    public = key.private_key.public_key()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).rstrip(),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        json.dumps(dict(key.jwk)).encode(),
        b"",
    ]
    payload = base64url(encode_json(house.github.claims(house.audience)))
    for alg in ("HS256", "RS256"):
        signing_input = f"{base64url(encode_json({'alg': alg, 'kid': key.key_id, 'typ': 'JWT'}))}.{payload}"
        for secret in forms:
            forged = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
            reason = await refusals(house, f"{signing_input}.{base64url(forged)}")
            assert reason == ("algorithm_not_allowed" if alg == "HS256" else "bad_signature")


async def test_an_ecdsa_signature_is_r_and_s_and_nothing_else(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = house.pod_token()
        good = signature_of(token)
        r, s = good[:32], good[32:]
        key = house.cluster.signing_key().private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        der = key.sign(token.rpartition(".")[0].encode(), ec.ECDSA(hashes.SHA256()))
        order = P256_ORDER.to_bytes(32)
        forged = {
            "psychic (CVE-2022-21449)": bytes(64),
            "r is nought": bytes(32) + s,
            "s is nought": r + bytes(32),
            "r is the order": order + s,
            "s is the order": r + order,
            "s beyond the order": r + b"\xff" * 32,
            "DER": der,
            "a byte too few": good[:-1],
            "a byte too many": good + b"\0",
            "r and s swapped": s + r,
            "empty but for a byte": b"\0",
        }
        for name, signature in forged.items():
            assert await refusals(house, with_signature(token, signature)) == "bad_signature", name
        await still_serves(house)


async def test_the_twin_of_an_ecdsa_signature_is_the_same_token(tmp_path: Path):
    """(r, n - s) verifies by design: what counts a token's uses must not go by its signature."""
    async with besieged(tmp_path) as house:
        file = tmp_path / "policies" / "policies.yaml"
        file.write_text(file.read_text().replace("preset: kubernetes\n", "preset: kubernetes\nreplay: reject\n"))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        claims = {name: value for name, value in house.cluster.claims(house.audience).items() if name != "jti"}
        token = house.cluster.mint(claims)
        good = signature_of(token)
        twin = with_signature(token, good[:32] + (P256_ORDER - int.from_bytes(good[32:])).to_bytes(32))
        assert twin != token
        assert (await house.gateway.exchange(token))[0] == 200
        assert await refusals(house, twin) == "token_replayed"
        assert await refusals(house, token) == "token_replayed"


async def test_only_the_issuers_own_published_key_verifies(tmp_path: Path):
    async with besieged(tmp_path) as house:
        claims = house.cluster.claims(house.audience)
        key = house.cluster.signing_key()
        stranger = new_signing_key("ES256", thumbprint)
        assert await refusals(house, house.cluster.mint(claims, key=stranger)) == "unknown_key"
        same_name = replace(stranger, key_id=key.key_id)
        assert await refusals(house, house.cluster.mint(claims, key=same_name)) == "bad_signature"
        embedded = {"jwk": dict(stranger.jwk), "kid": key.key_id}
        assert await refusals(house, house.cluster.mint(claims, key=stranger, header=embedded)) == "forbidden_header"
        of_another_issuer = house.github.signing_key()
        token = house.github.mint(claims, key=of_another_issuer)
        assert await refusals(house, token) == "unknown_key", "GitHub's key says nothing about pods"
        rsa_under_the_name_of_ec = house.cluster.mint(
            claims, key=house.cluster.signing_key("RS256"), header={"kid": key.key_id}
        )
        assert await refusals(house, rsa_under_the_name_of_ec) == "algorithm_not_allowed"
        await still_serves(house)


async def test_a_kid_is_a_name_and_nothing_more(house: House):
    claims = house.cluster.claims(house.audience)
    for kid in (
        "../../dev/null", "/etc/passwd", "' OR '1'='1", "http://127.0.0.1/", "${jndi:ldap://x}", "<script>", "%00",
        "a" * 256, "__class__", "{0.__class__}", "%s%n", "$(id)", "*", "\u0430", "\u202eevil",
    ):  # fmt: skip
        assert await refusals(house, house.cluster.mint(claims, header={"kid": kid})) == "unknown_key", kid
    for kid in ("", "a" * 257, 7, None, True, ["x"], {"x": 1}, "a\0b", "a\nb", "\u0085"):
        assert await refusals(house, house.cluster.mint(claims, header={"kid": kid})) == "malformed_header", kid
    assert await refusals(house, house.cluster.mint(claims, header={"kid": ABSENT})) == "missing_key_id"
    metrics = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    assert "jndi" not in metrics
    assert "evil" not in metrics


# ---------------------------------------------------------------- key sets that weaken themselves


def rsa_jwk(modulus: int, exponent: int, **members: Any) -> dict[str, Any]:
    n, e = (base64url(value.to_bytes((value.bit_length() + 7) // 8)) for value in (modulus, exponent))
    return {"kty": "RSA", "n": n, "e": e, "use": "sig", **members}


def weak_key_sets() -> dict[str, tuple[str, Any, list[dict[str, Any]]]]:
    """A key set for each case, with the key that signs the attacker's token and its algorithm."""
    strong, small = private_key("RS256"), rsa.generate_private_key(65537, 1024)
    curve, other_curve = private_key("ES256"), private_key("ES384")
    assert isinstance(strong, rsa.RSAPrivateKey)
    n = strong.public_key().public_numbers().n
    numbers = strong.private_numbers()
    private = {name: base64url(getattr(numbers, name).to_bytes(256)) for name in ("d", "p", "q")}
    ec_jwk = public_jwk(curve)
    return {
        "a good key": ("RS256", strong, [public_jwk(strong)]),
        "RSA of 1024 bits": ("RS256", small, [public_jwk(small)]),
        "RSA with e = 3": ("RS256", strong, [rsa_jwk(n, 3)]),
        "RSA with e = 1": ("RS256", strong, [rsa_jwk(n, 1)]),
        "RSA with an e of 2000 bits": ("RS256", strong, [rsa_jwk(n, 2**2000 + 1)]),
        "an even RSA modulus": ("RS256", strong, [rsa_jwk(n + 1, 65537)]),
        "an RSA modulus with a small factor": ("RS256", strong, [rsa_jwk(3 * (2**2047 + 9), 65537)]),
        "RSA of 16384 bits": ("RS256", strong, [rsa_jwk(2**16383 + 1, 65537)]),
        "a private key": ("RS256", strong, [public_jwk(strong, **private)]),
        "a symmetric key": ("HS256", b"secret", [{"kty": "oct", "k": base64url(b"secret"), "alg": "HS256"}]),
        "a key for encryption": ("RS256", strong, [public_jwk(strong, use="enc")]),
        "a key that does not verify": ("RS256", strong, [public_jwk(strong, key_ops=["encrypt"])]),
        "a key for another algorithm": ("RS256", strong, [public_jwk(strong, alg="PS256")]),
        "a key whose alg is a list": ("RS256", strong, [public_jwk(strong, alg=["RS256"])]),
        "ES256 on another curve": ("ES256", other_curve, [public_jwk(other_curve)]),
        "secp256k1": ("ES256", private_key("ES256K"), [public_jwk(private_key("ES256K"))]),
        "a point off its curve": ("ES256", curve, [ec_jwk | {"y": ec_jwk["x"]}]),
        "a point at infinity": ("ES256", curve, [ec_jwk | {"x": base64url(bytes(32)), "y": base64url(bytes(32))}]),
        "a short coordinate": ("ES256", curve, [ec_jwk | {"x": ec_jwk["x"][:-2]}]),
        "Ed25519 of small order": (
            "EdDSA", private_key("EdDSA"), [{"kty": "OKP", "crv": "Ed25519", "x": base64url(bytes(32))}],
        ),
        "X25519": ("EdDSA", private_key("EdDSA"), [public_jwk(private_key("EdDSA")) | {"crv": "X25519"}]),
        "two keys of one name": ("RS256", strong, [public_jwk(strong), public_jwk(private_key("RS256", 1))]),
        "no keys": ("RS256", strong, []),
        "too many keys": ("RS256", strong, [public_jwk(strong, kid=str(i)) for i in range(101)]),
    }  # fmt: skip


def signed(algorithm: str, key: Any, url: str) -> str:
    claims = {"iss": url, "sub": "x", "aud": ISSUER, "iat": 1, "exp": 2}
    header = {"alg": algorithm, "kid": "k"}
    if algorithm == "HS256":
        signing_input = f"{base64url(encode_json(header))}.{base64url(encode_json(claims))}"
        return f"{signing_input}.{base64url(hmac.new(key, signing_input.encode(), 'sha256').digest())}"
    if algorithm == "ES256" and key.curve.name != "secp256r1":
        signing_input = f"{base64url(encode_json(header))}.{base64url(encode_json(claims))}"
        other = {"secp384r1": "ES384", "secp256k1": "ES256K"}[key.curve.name]
        return f"{signing_input}.{base64url(sign(other, key, signing_input.encode()))}"
    return compact(header, claims, algorithm, key)


def issuers(folder: Path, key_sets: Mapping[str, Any]) -> str:
    """An Issuer document for each key set, which lies in a file."""
    documents = []
    for number, key_set in enumerate(key_sets.values()):
        (folder / f"{number}.json").write_text(json.dumps(key_set))
        documents.append(
            f"kind: Issuer\nname: case-{number}\nurl: https://case-{number}.example\nallow_missing_kid: true\n"
            f"keys: {{jwks_file: {folder}/{number}.json}}\n"
            "algorithms: [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519]\n"
        )
    return "---\n".join(documents)


async def test_a_weak_or_misplaced_key_verifies_nothing(tmp_path: Path):
    """The token is well signed and long expired: had its key been taken, the reason would be one about its claims."""
    cases = weak_key_sets()
    key_sets = {name: {"keys": [{"kid": "k"} | jwk for jwk in keys]} for name, (_, _, keys) in cases.items()}
    async with besieged(tmp_path, policies=issuers(tmp_path, key_sets)) as house:
        reached = {}
        for number, (name, (algorithm, key, _)) in enumerate(cases.items()):
            token = signed(algorithm, key, f"https://case-{number}.example")
            status, body = await house.gateway.exchange(token)
            assert status in {400, 503}, (name, body)
            reached[name] = body["reason"]
        assert reached.pop("a good key") == "token_expired"
        allowed = {"issuer_unavailable", "algorithm_not_allowed"}
        assert {name: reason for name, reason in reached.items() if reason not in allowed} == {}
        await still_serves(house)


# ---------------------------------------------------------------- the vectors of others, through the real endpoint


@needs_vectors
async def test_no_signature_of_wycheproof_buys_a_token(house: House):
    for group in wycheproof("json_web_signature_test")["testGroups"]:
        for test in group["tests"]:
            await refusals(house, test["jws"])


@needs_vectors
async def test_nothing_encrypted_of_wycheproof_buys_a_token(house: House):
    for name in ("json_web_encryption_test", "json_web_crypto_test"):
        for group in wycheproof(name)["testGroups"]:
            for test in group["tests"]:
                text = test.get("jwe") or test["jws"]
                reason = (await refused(house, exchange_form(text if isinstance(text, str) else json.dumps(text))))[2]
                assert "jwe" not in test or reason in {"malformed_token", "token_too_large"}, (name, test["tcId"])


@needs_vectors
async def test_beside_every_key_of_wycheproof_a_good_one_goes_on_working(tmp_path: Path):
    good = new_signing_key("ES256", thumbprint)
    key_sets: dict[str, Any] = {}
    tokens: dict[str, str | None] = {}
    for group in wycheproof("json_web_key_test")["testGroups"]:
        keys = group.get("public") or group["private"]
        for test in group["tests"]:
            name = f"{test['tcId']} {test['comment']}"
            key_sets[name] = {"keys": [*keys.get("keys", [keys]), dict(good.jwk)]}
            tokens[name] = test.get("jws")
    async with besieged(tmp_path, policies=issuers(tmp_path, key_sets)) as house:
        for number, name in enumerate(key_sets):
            claims = house.cluster.claims(house.audience, iss=f"https://case-{number}.example")
            reason = await refusals(house, good.sign({"alg": "ES256", "kid": good.key_id}, encode_json(claims)))
            assert reason == "no_matching_trust", name
            if tokens[name] is not None:
                await refusals(house, str(tokens[name]))


async def test_two_issuers_of_one_name_are_told_apart_by_the_key_that_verifies(tmp_path: Path):
    """Also where both call their keys alike (Storm-0558 was one key set for two kinds of customer)."""
    prod, test = new_signing_key("ES256", thumbprint), replace(new_signing_key("ES256", thumbprint), key_id="k")
    prod = replace(prod, key_id="k")
    for name, key in (("prod", prod), ("test", test)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"keys": [dict(key.jwk) | {"kid": "k"}]}))
    shared = "https://kubernetes.default.svc"
    documents = [
        f"kind: Issuer\nname: {name}\npreset: kubernetes\nurl: {shared}\nkeys: {{jwks_file: {tmp_path}/{name}.json}}\n"
        for name in ("prod", "test")
    ]
    trust = "[{issuer: prod, match: {sub: 'system:serviceaccount:billing:invoicer'}}]"
    account = "kind: ServiceAccount\nname: payer\naccess: [{resource: ledger-api, scopes: [ledger:write]}]\n"
    policies = "---\n".join([*documents, f"{account}trust: {trust}\n"])
    async with besieged(tmp_path, policies=policies) as house:
        issuer = StandInIssuer(house.cluster.platform, clock=house.gateway.gateway._clock, issuer=shared)
        claims = issuer.claims(house.audience)
        status, body = await house.gateway.exchange(issuer.mint(claims, key=prod))
        assert (status, body["scope"]) == (200, "ledger:write")
        assert await refusals(house, issuer.mint(claims, key=test)) == "no_matching_trust"
        assert records(house)[-1]["issuer"] == "test"
        third = replace(new_signing_key("ES256", thumbprint), key_id="k")
        assert await refusals(house, issuer.mint(claims, key=third)) == "bad_signature"
