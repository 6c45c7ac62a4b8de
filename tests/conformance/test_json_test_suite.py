"""JSONTestSuite's texts as claims under a good signature, as a key set and as a discovery document.

Whatever they hold, the answer is ours: a refusal or a value error, never another exception.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.fetcher import Fetched, FetchError
from gateway.identity.key_sources import loader_for
from gateway.identity.verification import verify_compact
from gateway.jose.jwks import ALGORITHMS, parse_key_set
from gateway.jose.strict_json import parse_json_object
from gateway.model import KeySource
from gateway.oauth.errors import Refusal
from tests.support.tokens import NOW, SigningIssuer
from tests.support.vectors import json_texts, needs_vectors

pytestmark = needs_vectors

TEXTS = [pytest.param(path, id=path.name) for path in json_texts()]


@pytest.mark.parametrize("path", TEXTS)
def test_what_parses_is_what_the_standard_says(path: Path) -> None:
    data = path.read_bytes()
    try:
        value = parse_json_object(data)
    except ValueError:
        return
    assert not path.name.startswith("n_")
    assert value == json.loads(data)


REFUSED_THOUGH_JSON = (
    "y_object_duplicated_key",  # two meanings
    "y_object_extreme_numbers",  # fractions and exponents
    "y_object_escaped_null_in_key",  # control characters
)


@pytest.mark.parametrize("path", [param for param in TEXTS if param.id.startswith("y_object")])
def test_every_plain_object_parses(path: Path) -> None:
    if path.name.startswith(REFUSED_THOUGH_JSON):
        with pytest.raises(ValueError):
            parse_json_object(path.read_bytes())
    else:
        assert parse_json_object(path.read_bytes()) == json.loads(path.read_bytes())


@pytest.mark.parametrize("path", TEXTS)
def test_as_the_payload_of_a_well_signed_token_it_is_refused(path: Path) -> None:
    issuer = SigningIssuer("ES256")
    with pytest.raises(Refusal) as refused:
        verify_compact(issuer.token(path.read_bytes() or b" "), issuer.issuer(), issuer.key_set, NOW)
    assert refused.value.reason.stage in {"malformed", "claims"}


@pytest.mark.parametrize("path", TEXTS)
def test_as_a_claim_it_changes_nothing_or_refuses_the_token(path: Path) -> None:
    issuer = SigningIssuer("ES256")
    payload = json.dumps(issuer.claims()).encode()[:-1] + b',"text":' + path.read_bytes() + b"}"
    try:
        reached = verify_compact(issuer.token(payload), issuer.issuer(), issuer.key_set, NOW).subject
    except Refusal as refusal:
        reached = refusal.reason.code
    assert reached in {"workload", "malformed_claims", "token_too_large"}


@pytest.mark.parametrize("path", TEXTS)
def test_as_a_key_set_it_is_refused(path: Path) -> None:
    for body in (path.read_bytes(), b'{"keys":' + path.read_bytes() + b"}"):
        with pytest.raises(ValueError):
            parse_key_set(body, algorithms=ALGORITHMS)


@pytest.mark.parametrize("path", TEXTS)
async def test_as_a_discovery_document_it_is_a_failed_fetch(path: Path) -> None:
    class Answering:
        async def get(self, url: str, **_: Any) -> Fetched:
            return Fetched(200, path.read_bytes())

    issuer = SigningIssuer("ES256").issuer(keys=KeySource(discovery_url="https://issuer.example/"))
    with pytest.raises(FetchError) as failed:
        await loader_for(issuer, Answering()).load()
    assert failed.value.outcome == "content"
