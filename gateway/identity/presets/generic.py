"""Any issuer of signed JWTs with OpenID Connect discovery or a key set, about whose claims nothing is known."""

from gateway.identity.presets.common import HTTPS_URL
from gateway.model import ClaimTable, Preset

PRESET = Preset(
    name="generic",
    title="Any OpenID Connect issuer",
    url=None,
    url_pattern=HTTPS_URL,
    algorithms=("RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
    claims=ClaimTable(required=(("sub",),), optional=frozenset({"*"})),
    # The claims of RFC 7519 section 4.1: whatever else there is, each issuer has its own.
    sample={
        "iss": "https://issuer.example.com",
        "sub": "nightly-report",
        "aud": "https://sts.orchard.example",
        "iat": 1793610000,
        "nbf": 1793610000,
        "exp": 1793613600,
        "jti": "9a1c5e0d-3b7f-4d26-a5c8-6e2f0b4d7a19",
    },
    subject_pattern=r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?",
)
