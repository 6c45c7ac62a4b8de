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
    subject_pattern=r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?",
)
