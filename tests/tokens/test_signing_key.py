"""One key: its name, what it publishes, what it signs."""

import base64
import json

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from gateway.jose import base64url
from gateway.jose.thumbprint import jwk_thumbprint
from gateway.tokens.signing_key import SigningKey

NOW = 1_800_000_000.7
KEYS = {algorithm: SigningKey.generate(algorithm, NOW) for algorithm in ("ES256", "EdDSA", "RS256")}
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}


@pytest.fixture(params=KEYS)
def key(request):
    return KEYS[request.param]


def pem_of(private_key, encryption=None):
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption or serialization.NoEncryption()
    )


def test_rfc_7638_section_3_1_the_example_has_its_thumbprint():
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    jwk = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert jwk_thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_rfc_8037_appendix_a_3_the_example_has_its_thumbprint():
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert jwk_thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_kid_is_the_thumbprint_of_what_is_published(key):
    assert key.kid == jwk_thumbprint(key.public_jwk())


def test_rfc_7518_section_6_2_1_2_coordinates_keep_their_leading_zeros():
    # A point whose x or y starts with a zero byte comes up once in 128 keys.
    for number in range(1, 2000):
        private_key = ec.derive_private_key(number, ec.SECP256R1())
        point = private_key.public_key().public_numbers()
        if min(point.x, point.y) >> 248 == 0:
            break
    jwk = SigningKey(private_key, 0).public_jwk()
    assert [len(base64url.parse(jwk[name])) for name in "xy"] == [32, 32]
    assert jwt.PyJWK(jwk).key.public_numbers() == point


def test_rfc_7518_section_6_3_1_1_the_modulus_has_no_leading_zero():
    assert base64url.parse(KEYS["RS256"].public_jwk()["n"])[0] != 0


def test_a_published_key_has_kid_use_and_alg_and_nothing_private(key):
    jwk = key.public_jwk()
    assert jwk["use"] == "sig"
    assert jwk["alg"] == key.algorithm
    assert not PRIVATE_MEMBERS & jwk.keys()


def test_what_is_published_cannot_be_changed_through_a_copy(key):
    key.public_jwk()["kty"] = "oct"
    assert key.public_jwk()["kty"] != "oct"


def test_a_token_is_verified_by_pyjwt_with_the_published_key(key):
    token = key.sign(b'{"iss":"https://sts.example.com"}')
    published = jwt.PyJWK(key.public_jwk())
    complete = jwt.api_jwt.decode_complete(token, published, algorithms=[key.algorithm])
    assert complete["payload"] == {"iss": "https://sts.example.com"}
    assert complete["header"] == {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}


def test_rfc_7518_section_3_4_an_es256_signature_is_r_and_s_at_full_length():
    key = KEYS["ES256"]
    for number in range(600):  # one in 128 has a short r or s
        signature = base64url.parse(key.sign(b"%d" % number).split(".")[2])
        assert len(signature) == 64


def test_the_signature_of_another_key_is_not_ours(key):
    other = SigningKey.generate(key.algorithm, NOW) if key.algorithm != "RS256" else KEYS["ES256"]
    signing_input, _, signature = other.sign(b"{}").rpartition(".")
    assert not key.has_signed(signing_input.encode(), base64url.parse(signature))


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"\1" * 63, b"\1" * 65, b"\0" * 256, b"0" * 9000])
def test_an_absurd_signature_is_not_ours(key, signature):
    assert not key.has_signed(b"a.b", signature)


def test_an_es256_signature_in_der_is_not_ours():
    private_key = ec.generate_private_key(ec.SECP256R1())
    key = SigningKey(private_key, 0)
    der = private_key.sign(b"a.b", ec.ECDSA(hashes.SHA256()))
    assert not key.has_signed(b"a.b", der)


def test_a_key_survives_being_written_down(key):
    again = SigningKey.from_pem(key.private_pem(), key.created_at)
    assert (again.kid, again.algorithm, again.created_at) == (key.kid, key.algorithm, 1_800_000_000)
    assert again.header_segment == key.header_segment


def test_neither_repr_nor_str_of_a_key_shows_its_secret(key):
    secret = b"".join(key.private_pem().splitlines()[1:-1]).decode()
    assert repr(key) == str(key) == f"SigningKey({key.algorithm} {key.kid})"
    assert not any(secret[i : i + 8] in repr(key) for i in range(0, len(secret) - 8, 4))


def test_the_algorithm_follows_from_the_key_and_from_nothing_else(key):
    header = json.loads(base64.urlsafe_b64decode(key.header_segment + "=="))
    assert list(header) == ["alg", "kid", "typ"]


def rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    """A key of two primes: to look for large ones takes half a minute."""
    d = pow(65537, -1, (p - 1) * (q - 1))
    exponents = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *exponents, rsa.RSAPublicNumbers(65537, p * q))
    return numbers.private_key()


@pytest.mark.parametrize(
    ("private_key", "why"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "P-256"),
        (ec.generate_private_key(ec.SECP256K1()), "P-256"),
        (ed448.Ed448PrivateKey.generate(), "no algorithm"),
        (x25519.X25519PrivateKey.generate(), "no algorithm"),
        (rsa.generate_private_key(65537, 1024), "2048 to 8192 bits"),
        (rsa_of(2**4253 - 1, 2**4423 - 1), "2048 to 8192 bits"),
        (rsa.generate_private_key(3, 2048), "public exponent"),
    ],
    ids=["P-384", "secp256k1", "Ed448", "X25519", "RSA-1024", "RSA-8676", "RSA-e3"],
)
def test_a_key_that_no_algorithm_here_fits_is_refused(private_key, why):
    with pytest.raises(ValueError, match=why):
        SigningKey.from_pem(pem_of(private_key), 0)


def test_an_encrypted_key_is_refused():
    pem = pem_of(ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"secret"))
    with pytest.raises(ValueError, match="encrypted"):
        SigningKey.from_pem(pem, 0)


@given(st.binary(max_size=200))
def test_base64url_comes_back_as_it_went(data):
    assert base64url.parse(base64url.encode(data).decode()) == data


@pytest.mark.parametrize("segment", ["QQ==", "QR", "Q", "Q Q", "QQ\n", "+/+/", "QUJD!", "QUJDR", "é"])
def test_rfc_7515_section_2_only_canonical_base64url_is_read(segment):
    with pytest.raises(ValueError):
        base64url.parse(segment)
