import json
from typing import Any

import pytest

from gateway.jose.compact import parse_base64url
from gateway.jose.jwks import ALGORITHMS, PRIVATE_KEY, parse_key, parse_key_set
from gateway.jose.weak_keys import is_small_order_point
from tests.support.tokens import SigningIssuer, base64url, private_key, public_jwk, sign

RS = SigningIssuer("RS256")
ES = SigningIssuer("ES256")
ED = SigningIssuer("EdDSA")


def why(jwk: Any, algorithms: frozenset[str] = ALGORITHMS) -> str:
    with pytest.raises(ValueError) as refused:
        parse_key(jwk, algorithms=algorithms)
    return str(refused.value)


def integer(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8))


def rsa_jwk(modulus: int, exponent: int = 65537, **members: Any) -> dict[str, Any]:
    return {"kty": "RSA", "kid": "k", "n": integer(modulus), "e": integer(exponent)} | members


def modulus_of(jwk: dict[str, Any]) -> int:
    return int.from_bytes(parse_base64url(jwk["n"]))


# ------------------------------------------------------------ which algorithms


@pytest.mark.parametrize(
    ("algorithm", "fits"),
    [
        ("RS256", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("ES256", {"ES256"}),
        ("ES384", {"ES384"}),
        ("ES512", {"ES512"}),
        ("EdDSA", {"EdDSA", "Ed25519"}),
    ],
)
def test_a_key_without_alg_verifies_what_fits_its_type_and_its_issuer(algorithm: str, fits: set[str]) -> None:
    """RFC 8725 §3.1, RFC 7518 §3.1."""
    jwk = public_jwk(private_key(algorithm))
    assert parse_key(jwk, algorithms=ALGORITHMS).algorithms == fits
    assert parse_key(jwk, algorithms=frozenset({algorithm, "HS256", "none"})).algorithms == {algorithm}
    assert "no algorithm" in why(jwk, ALGORITHMS - fits)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_each_algorithm_verifies_its_own_signatures_and_no_changed_ones(algorithm: str) -> None:
    key = private_key(algorithm)
    verify = parse_key(public_jwk(key, alg=algorithm), algorithms=ALGORITHMS).verifiers[algorithm]
    signature = sign(algorithm, key, b"signed")
    assert verify(b"signed", signature)
    assert not verify(b"signee", signature)
    assert not verify(b"signed", signature[:-1] + bytes([signature[-1] ^ 1]))
    for length in (0, 1, len(signature) - 1):
        assert not verify(b"signed", signature[:length])
    assert not verify(b"signed", signature + b"\0")
    assert not verify(b"signed", b"\0" * len(signature))


def test_the_alg_of_a_key_binds_it() -> None:
    jwk = public_jwk(private_key("RS256"), alg="PS256")
    assert parse_key(jwk, algorithms=ALGORITHMS).algorithms == {"PS256"}
    assert "no algorithm" in why(jwk, frozenset({"RS256"}))


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519_mean_the_same_key(alg: str) -> None:
    """RFC 9864 §2.2."""
    assert parse_key(ED.jwk(alg=alg), algorithms=ALGORITHMS).algorithms == {"EdDSA", "Ed25519"}
    assert parse_key(ED.jwk(alg=alg), algorithms=frozenset({"EdDSA"})).algorithms == {"EdDSA"}


@pytest.mark.parametrize("alg", ["HS256", "none", "None", "rs256", "ES256K", "RSA-OAEP", "ML-DSA-44", "", "ES384"])
def test_a_key_for_another_algorithm_is_left_out(alg: str) -> None:
    assert "no algorithm" in why(ES.jwk(alg=alg))


@pytest.mark.parametrize("alg", [None, 1, [], {}, ["ES256"]])
def test_an_alg_that_is_no_string_leaves_the_key_out(alg: Any) -> None:
    assert why(ES.jwk(alg=alg)) == "its alg is not a string"


# ------------------------------------------------------------ which keys


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_key_with_a_private_member_is_left_out_with_an_alarm(member: str) -> None:
    leaking = RS.jwk(kid="leaked", **{member: "AQAB"})
    assert why(leaking) == PRIVATE_KEY
    keys = parse_key_set({"keys": [leaking, ES.jwk()]}, algorithms=ALGORITHMS)
    assert keys.leaks_private_key
    assert keys.ignored == (("leaked", PRIVATE_KEY),)


def test_a_symmetric_key_is_left_out_with_an_alarm() -> None:
    assert why({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}) == PRIVATE_KEY
    assert why({"kty": "oct"}) == PRIVATE_KEY


@pytest.mark.parametrize("use", ["enc", "SIG", "jwt-svid", "", None, 1, ["sig"]])
def test_a_key_of_another_use_is_left_out(use: Any) -> None:
    """RFC 7517 §4.2."""
    assert why(ES.jwk(use=use)) == "its use is not sig"


@pytest.mark.parametrize("key_ops", [[], ["encrypt"], ["sign"], "verify", None, {"verify": True}, [["verify"]]])
def test_a_key_that_is_not_for_verifying_is_left_out(key_ops: Any) -> None:
    """RFC 7517 §4.3."""
    assert "key_ops" in why(ES.jwk(key_ops=key_ops))


@pytest.mark.parametrize("members", [{}, {"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}])
def test_a_key_may_say_nothing_of_its_use(members: dict[str, Any]) -> None:
    parse_key(public_jwk(private_key("ES256"), **members), algorithms=ALGORITHMS)


@pytest.mark.parametrize("kty", [None, 1, "", "rsa", "AKP", "oct2", [], {}])
def test_a_key_of_unknown_type_is_left_out(kty: Any) -> None:
    assert why(ES.jwk(kty=kty)) == "its kty is not RSA, EC or OKP"


@pytest.mark.parametrize("jwk", [None, 1, "key", [], [[]], True])
def test_what_is_no_object_is_left_out(jwk: Any) -> None:
    assert why(jwk) == "it is not a JSON object"


@pytest.mark.parametrize("kid", [1, None, [], {}, "x" * 257])
def test_a_kid_that_is_no_short_string_leaves_the_key_out(kid: Any) -> None:
    assert "kid" in why(ES.jwk(kid=kid))


# ------------------------------------------------------------ RSA (RFC 7518 §3.3, RFC 8725 §3.4)


@pytest.mark.parametrize("bits", [512, 1024, 2040, 2047, 8193, 16_384])
def test_an_rsa_key_of_unsafe_or_absurd_size_is_left_out(bits: int) -> None:
    assert "modulus has not" in why(rsa_jwk((1 << bits) - 1))


@pytest.mark.parametrize("exponent", [1, 2, 3, 17, 65536, 65539, (1 << 2040) + 1])
def test_an_rsa_exponent_other_than_65537_leaves_the_key_out(exponent: int) -> None:
    assert why(rsa_jwk(modulus_of(RS.jwk()), exponent)) == "its exponent is not 65537"


@pytest.mark.parametrize("factor", [2, 3, 5, 7, 751])
def test_an_rsa_modulus_with_a_small_factor_leaves_the_key_out(factor: int) -> None:
    modulus = modulus_of(RS.jwk())
    modulus += factor - modulus % factor
    assert "small factor" in why(rsa_jwk(modulus))


def test_zero_bytes_in_front_of_a_modulus_are_tolerated() -> None:
    padded = RS.jwk(n=base64url(b"\0" + modulus_of(RS.jwk()).to_bytes(256)))
    key = parse_key(padded, algorithms=ALGORITHMS)
    assert key.verifiers["RS256"](b"signed", sign("RS256", RS.key, b"signed"))


@pytest.mark.parametrize("n", [None, 1, "", "A", "AA==", "!!!!", "\u00e9", "AB", [], "a" * 5000, "AQAB\n"])
def test_an_rsa_modulus_that_is_no_base64url_integer_leaves_the_key_out(n: Any) -> None:
    why(RS.jwk(n=n))


def test_an_rsa_key_without_its_members_is_left_out() -> None:
    assert why({"kty": "RSA"}) == "its n is not a base64url string"


# ------------------------------------------------------------ elliptic curves


def test_a_point_off_its_curve_leaves_the_key_out() -> None:
    assert why(ES.jwk(x=ES.jwk()["y"])) == "its point is not on its curve"
    assert why(ES.jwk(x=base64url(b"\0" * 32), y=base64url(b"\0" * 32))) == "its point is not on its curve"
    assert why(ES.jwk(x=base64url(b"\xff" * 32))) == "its point is not on its curve"


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_coordinate_of_wrong_length_leaves_the_key_out(length: int) -> None:
    """RFC 7518 §6.2.1.2."""
    why(ES.jwk(x=base64url(b"\1" * length)))


@pytest.mark.parametrize("crv", ["secp256k1", "P-224", "p-256", "Ed25519", "", None, [], 1])
def test_an_unknown_curve_leaves_the_key_out(crv: Any) -> None:
    assert "crv" in why(ES.jwk(crv=crv))


@pytest.mark.parametrize("crv", ["Ed448", "X25519", "P-256", None, []])
def test_only_ed25519_of_the_edwards_curves_is_read(crv: Any) -> None:
    assert why(ED.jwk(crv=crv)) == "its crv is not Ed25519"


SMALL_ORDER_POINTS = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("point", SMALL_ORDER_POINTS)
def test_an_ed25519_point_of_small_order_leaves_the_key_out(point: str) -> None:
    assert is_small_order_point(bytes.fromhex(point))
    assert why(ED.jwk(x=base64url(bytes.fromhex(point)))) == "its point is of small order"


@pytest.mark.parametrize("value", [0, 1])
def test_an_ecdsa_signature_out_of_range_never_verifies(value: int) -> None:
    """CVE-2022-21449."""
    verify = parse_key(ES.jwk(), algorithms=ALGORITHMS).verifiers["ES256"]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    good = sign("ES256", ES.key, b"signed")
    r, s = int.from_bytes(good[:32]), int.from_bytes(good[32:])
    for bad_r, bad_s in [(0, 0), (0, s), (r, 0), (order, s), (r, order), (value, value), (order + value, order)]:
        assert not verify(b"signed", bad_r.to_bytes(32) + bad_s.to_bytes(32))


def test_the_high_s_twin_of_a_signature_verifies() -> None:
    """By design of ECDSA: so a signature is no identity, and nothing is ever looked up by one."""
    verify = parse_key(ES.jwk(), algorithms=ALGORITHMS).verifiers["ES256"]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    good = sign("ES256", ES.key, b"signed")
    assert verify(b"signed", good[:32] + (order - int.from_bytes(good[32:])).to_bytes(32))


# ------------------------------------------------------------ the set (RFC 7517 §5)


def test_keys_are_found_by_kid_and_those_without_one_are_kept_apart() -> None:
    keys = parse_key_set(RS.jwks(public_jwk(ES.key), ED.jwk(kid="")), algorithms=ALGORITHMS)
    assert list(keys.by_key_id) == ["RS256-0"]
    assert [key.key_id for key in keys.without_key_id] == [None, None]
    assert len(keys.keys) == 3


def test_a_key_listed_with_and_without_kid_is_one_key() -> None:
    keys = parse_key_set(RS.jwks(RS.jwk(kid="")), algorithms=ALGORITHMS)
    assert len(keys.keys) == 1


def test_two_different_keys_under_one_kid_refuse_the_set() -> None:
    other = SigningIssuer("RS256", number=1, kid="RS256-0")
    with pytest.raises(ValueError, match="two different keys under one kid"):
        parse_key_set(RS.jwks(other.jwk()), algorithms=ALGORITHMS)
    with pytest.raises(ValueError, match="two different keys under one kid"):
        parse_key_set(RS.jwks(ES.jwk(kid="RS256-0")), algorithms=ALGORITHMS)


def test_the_same_key_may_be_listed_twice() -> None:
    assert len(parse_key_set(RS.jwks(RS.jwk()), algorithms=ALGORITHMS).by_key_id) == 1


def test_a_key_listed_once_for_each_algorithm_verifies_both() -> None:
    keys = parse_key_set(RS.jwks(RS.jwk(alg="PS256")), algorithms=ALGORITHMS)
    assert keys.by_key_id["RS256-0"].algorithms == {"RS256", "PS256"}


def test_bad_keys_are_left_out_with_their_reason_and_the_others_serve() -> None:
    """RFC 7517 §5."""
    keys = parse_key_set({"keys": [RS.jwk(), ES.jwk(use="enc"), None, {"kty": "AKP"}]}, algorithms=ALGORITHMS)
    assert list(keys.by_key_id) == ["RS256-0"]
    assert [label for label, _ in keys.ignored] == ["ES256-0", "#2", "#3"]
    assert not keys.leaks_private_key


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b'{"keys":[]}', b'{"keys":[{}]}', b"<html></html>",
        b'{"keys":[],"keys":[]}', b'{"keys":[1.5]}', b" " * 102_401, b'{"keys":[' + b"{}," * 100 + b"{}]}",
    ],
)  # fmt: skip
def test_a_document_without_a_usable_key_is_no_key_set(document: bytes) -> None:
    with pytest.raises(ValueError):
        parse_key_set(document, algorithms=ALGORITHMS)


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, float("nan"), 1.5])
def test_an_inline_set_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        parse_key_set({"keys": [RS.jwk(), {"x": value}]}, algorithms=ALGORITHMS)


def test_a_hundred_keys_are_read_and_one_more_is_not() -> None:
    many = [ES.jwk(kid=str(number)) for number in range(101)]
    assert len(parse_key_set({"keys": many[:100]}, algorithms=ALGORITHMS).by_key_id) == 100
    with pytest.raises(ValueError, match="more than 100 keys"):
        parse_key_set({"keys": many}, algorithms=ALGORITHMS)


def test_certificates_in_a_key_are_not_looked_at() -> None:
    parse_key(RS.jwk(x5c=["nonsense"], x5u="https://evil.example", x5t=1), algorithms=ALGORITHMS)


def test_the_digest_tells_whether_the_document_changed() -> None:
    body = json.dumps(RS.jwks()).encode()
    first = parse_key_set(body, algorithms=ALGORITHMS)
    assert first.sha256 == parse_key_set(body, algorithms=ALGORITHMS).sha256
    assert first.sha256 != parse_key_set(body + b" ", algorithms=ALGORITHMS).sha256
