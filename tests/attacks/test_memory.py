"""What the gateway remembers: never more than it should, never somebody else's, never longer than it is true."""

import json
import re
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.http import form
from gateway.jose import compact
from gateway.kinds import PRESETS
from gateway.oauth.reasons import GRANTED, REASONS
from gateway.standin.keys import new_signing_key, thumbprint
from tests.attacks.hostile import FORM, besieged, exchange_form, refusals, still_serves
from tests.support.house import House
from tests.support.time import HandClock
from tests.support.tokens import base64url


async def test_a_remembered_token_falls_with_what_it_rests_on(tmp_path: Path):
    async with besieged(tmp_path) as house:
        gateway, policies = house.gateway.gateway, tmp_path / "policies" / "policies.yaml"
        text, preset = policies.read_text(), "preset: kubernetes\n"
        renamed = text.replace("kind: Issuer\nname: prod-cluster", "kind: Issuer\nname: other")
        changes = {
            text.replace(preset, f"{preset}audiences: [https://other.example]\n"): "wrong_audience",
            text.replace(preset, f"{preset}algorithms: [RS256]\n"): "algorithm_not_allowed",
            text.replace(preset, f"{preset}max_token_lifetime: 60s\n"): "token_lifetime_too_long",
            text.replace("https://kubernetes.default.svc.cluster.local", "https://moved.example"): "unknown_issuer",
            text.replace("serviceaccount:billing:invoicer", "serviceaccount:billing:x"): "no_matching_trust",
            renamed.replace("issuer: prod-cluster", "issuer: github"): "no_matching_trust",
        }
        token = house.pod_token()
        for _ in range(3):
            assert (await house.gateway.exchange(token))[0] == 200
        for changed, reason in changes.items():
            policies.write_text(changed)
            assert (await gateway.reload()).result == "loaded", changed
            assert await refusals(house, token) == reason
            policies.write_text(text)
            assert (await gateway.reload()).result == "loaded"
            for _ in range(3):
                assert (await house.gateway.exchange(token))[0] == 200


async def test_a_remembered_token_falls_with_its_key(tmp_path: Path):
    clock = HandClock()
    async with besieged(tmp_path, clock=clock) as house:
        token = house.pod_token()
        for _ in range(3):
            assert (await house.gateway.exchange(token))[0] == 200
        house.cluster.rotate(publish_old=False)
        clock.now += 60
        assert (await house.gateway.exchange(house.pod_token()))[0] == 200, "whose key is new, and fetched for it"
        assert await refusals(house, token) == "unknown_key"


async def test_a_remembered_header_belongs_to_no_issuer(tmp_path: Path):
    """Two issuers whose tokens begin with the same letters: the header is the same, the keys are not."""
    mine, theirs = (replace(new_signing_key("ES256", thumbprint), key_id="k") for _ in range(2))
    documents = []
    for name, key in (("mine", mine), ("theirs", theirs)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"keys": [dict(key.jwk) | {"kid": "k"}]}))
        keys = f"{{jwks_file: {tmp_path}/{name}.json}}"
        documents.append(f"kind: Issuer\nname: {name}\nurl: https://{name}.example\nkeys: {keys}\n")
    async with besieged(tmp_path, policies="---\n".join(documents)) as house:

        def signed(name: str, key: Any) -> str:
            claims = house.cluster.claims(house.audience, iss=f"https://{name}.example")
            return key.sign({"alg": "ES256", "kid": "k"}, json.dumps(claims).encode())

        for _ in range(3):
            assert await refusals(house, signed("mine", mine)) == "no_matching_trust"
            assert await refusals(house, signed("theirs", theirs)) == "no_matching_trust"
            assert await refusals(house, signed("mine", theirs)) == "bad_signature"
            assert await refusals(house, signed("theirs", mine)) == "bad_signature"


async def test_strangers_fill_no_table(tmp_path: Path):
    async with besieged(tmp_path) as house:
        payload, signature = house.pod_token().split(".")[1:]
        for number in range(600):
            header = base64url(json.dumps({"alg": "ES256", "kid": f"k{number}"}).encode())
            more = {f"p{number}": "x", "client_id": f"c{number}"}
            await house.gateway.exchange(f"{header}.{payload}.{signature}", **more)
        trust = house.gateway.gateway.trust
        assert len(trust._remembered) == 0, "only what was verified is remembered"
        assert compact._parse_header.cache_info().currsize <= 256
        assert form._decoded_short_pair.cache_info().currsize <= 512
        keys = trust.keys_by_name()["prod-cluster"]
        assert sum(keys.fetches.values()) <= 3
        assert len(keys._in_vain) <= 2
        await still_serves(house)


async def test_labels_come_from_closed_sets_whatever_is_sent(tmp_path: Path):
    async with besieged(tmp_path) as house:
        claims = house.cluster.claims(house.audience)
        for number in range(50):
            hostile = f'x{number}"}} 1\n{{a="'
            for token in (
                house.cluster.mint(claims | {"iss": hostile}),
                house.cluster.mint(claims | {"sub": hostile, hostile: 1}),
                house.cluster.mint(claims, header={"kid": f"x{number}", "typ": f"x{number}"}),
                hostile,
            ):
                asked = {"client_id": hostile, "resource": f"x{number}", "scope": f"x{number}"}
                await house.gateway.post(exchange_form(token, **asked))
                await house.gateway.post({"grant_type": hostile, "assertion": token})
        text = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
        closed = {
            "grant": {"token-exchange", "jwt-bearer", "none"},
            "issuer": {"prod-cluster", "github", "unknown", "self"},
            "outcome": {"granted", "denied"},
            "reason": {GRANTED, *REASONS},
        }
        for family in text_string_to_metric_families(text):
            if family.name == "gateway_exchanges":
                for sample in family.samples:
                    assert all(sample.labels[name] in values for name, values in closed.items()), sample
        assert not re.search(r"\bx[0-9]+\b", text)


def worst_forms(token: str) -> dict[str, bytes]:
    """64 KiB, spent as dearly as we could think of."""
    form_of = f"grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}"
    return {
        "ampersands": b"&" * 65_000,
        "thirty thousand parameters": b"a&" * 30_000,
        "escapes": b"scope=" + b"%41" * 21_000,
        "escapes of multi-byte characters": b"scope=" + b"%F0%9F%98%80" * 5_400,
        "escapes that are none": b"scope=" + b"%" * 64_000,
        "pluses": b"scope=" + b"+" * 64_000,
        "equals signs": b"=" * 65_000,
        "thirty-two long names": b"&".join(b"%02d" % number + b"%61" * 660 for number in range(32)),
        "dots": b"grant_type=x&subject_token=" + b"." * 64_000,
        "scopes": b"scope=" + b"a%20" * 16_000,
        "resources": b"&".join([b"resource=" + b"x" * 2000] * 31),
        "a good token and much beside it": form_of.encode() + b"&x=" + b"%20" * 20_000,
    }


def worst_payloads(claims: dict[str, Any]) -> dict[str, bytes]:
    """12 KiB of claims, the same."""
    good = json.dumps(claims, separators=(",", ":")).encode()[:-1]
    return {
        "empty objects": good + b',"x":[' + b",".join([b"{}"] * 3600) + b"]}",
        "names": good + b"," + b",".join(b'"k%d":%d' % (number, number) for number in range(800)) + b"}",
        "escaped names": good + b"," + b",".join(b'"\\u0061%d":1' % number for number in range(700)) + b"}",
        "texts": good + b',"x":[' + b",".join([b'""'] * 3600) + b"]}",
        "backslashes": good + b',"x":"' + b"\\\\" * 5400,
        "quotes": good + b',"x":"' + b'\\"' * 5400 + b'"}',
        "brackets within a text": good + b',"x":"' + b"[" * 10_800 + b'"}',
        "brackets": good + b',"x":' + b"[" * 10_800,
        "digits": good + b',"x":' + b"9" * 10_800 + b"}",
        "audiences": good + b',"aud":[' + b",".join([b'"a"'] * 2700) + b"]}",
        "blanks": good + b" " * 10_800 + b"}",
    }


ENOUGH_SECONDS = 0.05


async def test_no_request_costs_more_than_its_share(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = house.pod_token()
        forms = worst_forms(token)
        for name, payload in worst_payloads(house.cluster.claims(house.audience)).items():
            signed = house.cluster.mint(payload)
            forms[f"claims: {name}"] = b"&".join(
                f"{key}={value}".encode() for key, value in exchange_form(signed).items()
            )
        dear = {}
        for name, body in forms.items():
            seconds = []
            for _ in range(3):
                started = process_time()
                status, _, _ = await house.gateway.post(body, headers={"Content-Type": FORM})
                seconds.append(process_time() - started)
                assert status in {200, 400}, name
            if min(seconds) > ENOUGH_SECONDS:
                dear[name] = min(seconds)
        assert dear == {}, "client and server together"


@pytest.mark.parametrize("preset", PRESETS)
def test_no_pattern_of_a_preset_runs_away(preset: str):
    subject = re.compile(PRESETS[preset].subject_pattern)
    url = re.compile(PRESETS[preset].url_pattern)
    hostile = ("a", "a:", "system:serviceaccount:" + "a-" * 100, "https://" + "a." * 1000, "a-" * 120 + ":", "-" * 255)
    started = process_time()
    for text in hostile:
        for tail in ("", "!", "\n", " "):
            subject.fullmatch((text * 255)[:254] + tail)
            url.fullmatch((text * 1000)[:2000] + tail)
    assert process_time() - started < 0.5
    assert not subject.fullmatch("system:serviceaccount:a:b\n")


async def test_two_issuers_never_lend_each_other_their_marks(tmp_path: Path):
    """One ``jti`` at two issuers is two tokens: each works once."""
    async with besieged(tmp_path) as house:
        file = tmp_path / "policies" / "policies.yaml"
        once = file.read_text().replace("preset: kubernetes\n", "preset: kubernetes\nreplay: reject\n")
        file.write_text(once.replace("preset: github-actions\n", "preset: github-actions\nreplay: reject\n"))
        assert (await house.gateway.gateway.reload()).result == "loaded"
        pod, job = house.pod_token(jti="same"), house.job_token(jti="same")
        assert (await house.gateway.exchange(pod))[0] == 200
        assert (await house.gateway.exchange(job, resource="deploy-api"))[0] == 200
        assert await refusals(house, pod) == "token_replayed"
        assert await refusals(house, house.pod_token(jti="same")) == "token_replayed", "whatever else it says"


async def test_a_refused_request_uses_nothing_up(house: House):
    text = (house.folder / "policies" / "policies.yaml").read_text()
    reject = text.replace("preset: github-actions\n", "preset: github-actions\nreplay: reject\n")
    (house.folder / "policies" / "policies.yaml").write_text(reject)
    assert (await house.gateway.gateway.reload()).result == "loaded"
    job = house.job_token()
    for wrong in ({"scope": "x"}, {"resource": "nowhere"}, {"client_id": "invoicer"}, {}):
        assert (await house.gateway.exchange(job, **wrong))[0] == 400
    assert (await house.gateway.exchange(job, resource="deploy-api"))[0] == 200
