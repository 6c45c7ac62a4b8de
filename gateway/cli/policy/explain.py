"""``gateway policy explain``: why a request is granted or denied, and what to change."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import typer

from gateway.cli.policy.files import GatewayIssuerOption, OutputOption, PoliciesOption, policy_files
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.jose.jwks import KeySet
    from gateway.model import Check, Claims, TokenRequest, TrustedIssuer
    from gateway.policy.explanation_document import Document
    from gateway.policy.generation import Generation
    from gateway.policy.near_miss import Hint

_STDIN = "-"
_MAX_FILE_BYTES = 64 * 1024
_TIMEOUT_SECONDS = 20.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def explain(
    *,
    token: str | None = typer.Option(None, metavar="FILE", help="A workload token; - is standard input."),
    claims: str | None = typer.Option(
        None, metavar="FILE", help="Claims as a JSON object, taken as verified; - is standard input."
    ),
    request: str | None = typer.Option(None, metavar="ID", help="A recent request, by the request_id of its answer."),
    issuer: str | None = typer.Option(None, help="The name of the Issuer. Default: the one whose url is the iss."),
    client_id: str | None = typer.Option(None, help="The service account that is asked for."),
    resource: str | None = typer.Option(None, help="The resource that is asked for: its name or identifier."),
    scope: str | None = typer.Option(None, help="The scopes that are asked for, separated by spaces."),
    admin: str | None = typer.Option(
        None, metavar="URL", help="With --request: the admin listener. Default: that of the settings."
    ),
    admin_token_file: Path | None = typer.Option(
        None, metavar="FILE", help="With --request: an access token for the resource gateway-admin."
    ),
    config: Path | None = ConfigOption,
    policies: Path | None = PoliciesOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    output: str = OutputOption,
) -> None:
    """Explain why a token gets what it gets, or why not.

    Every check in order, with what was wanted and what was seen, the trust rule that came nearest first; then near
    misses, each with the line to change. Offline, from the files alone: the signature is verified only where the
    issuer's keys stand in the policies (jwks, jwks_file). Tokens are never printed.

        gateway policy explain --token token.jwt --policies policies/
        gateway policy explain --claims claims.json --issuer github --client-id web-deployer --scope deploy:write
        gateway policy explain --request 3vC8mKzR1aQbX5n2LwTq9g

    With --request, a running gateway explains one of its recent decisions.

    Exit code 0: granted; 1: denied; 2: used wrongly, or nobody can tell.
    """
    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    if sum(one is not None for one in (token, claims, request)) != 1:
        raise typer.BadParameter("say one of --token, --claims and --request")
    if request is not None:
        if any(one is not None for one in (issuer, client_id, resource, scope)):
            raise typer.BadParameter("what was asked for is known: say nothing else beside --request")
        document = _asked_of_gateway(request, admin, admin_token_file, config, insecure_http=insecure_http)
    else:
        if admin is not None or admin_token_file is not None:
            raise typer.BadParameter("go with --request", param_hint="--admin, --admin-token-file")
        asked = _asked_for(client_id, resource, scope)
        generation = _generation(config, policies, gateway_issuer, insecure_http=insecure_http, output=output)
        if token is not None:
            document = _of_token(generation, _read(token, "--token"), issuer, asked)
        else:
            document = _of_claims(generation, _read(claims or "", "--claims"), issuer, asked)
    if output == "json":
        print(json.dumps(document, indent=2))
    else:
        from gateway.cli.policy.trace import print_explanation

        print_explanation(document)
    raise typer.Exit(0 if document["granted"] is True else 1)


# ---------------------------------------------------------------- what is asked


def _asked_for(client_id: str | None, resource: str | None, scope: str | None) -> "TokenRequest":
    from gateway.model import GrantType, TokenRequest
    from gateway.oauth.errors import Refusal
    from gateway.oauth.parameters import parse_scope

    try:
        scopes = None if scope is None else parse_scope(scope)
    except Refusal as refusal:
        raise typer.BadParameter(refusal.public, param_hint="--scope") from None
    return TokenRequest(GrantType.TOKEN_EXCHANGE, client_id=client_id, resource=resource, scopes=scopes)


def _generation(
    config: Path | None, policies: Path | None, gateway_issuer: str, *, insecure_http: bool, output: str
) -> "Generation":
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems

    try:
        # With their tests unplayed: a failing test is often just what is being looked into.
        return policy_files(config, policies, gateway_issuer, insecure_http).generation(keep_tests=True)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        raise typer.Exit(1) from None


def _read(name: str, option: str) -> bytes:
    try:
        if name == _STDIN:
            content = sys.stdin.buffer.read(_MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        if name.startswith("eyJ"):  # as every JWT begins, and every JSON object in base64
            words = "is the name of a file, and not the token itself, which others could see; or - for standard input"
            raise typer.BadParameter(words, param_hint=option) from None
        raise typer.BadParameter(f"cannot be read: {error.strerror}", param_hint=option) from None
    if len(content) > _MAX_FILE_BYTES:
        raise typer.BadParameter(f"is larger than {_MAX_FILE_BYTES // 1024} KiB", param_hint=option)
    return content


# ---------------------------------------------------------------- offline


class _Facts(NamedTuple):
    """What is known of a token before the policies are asked."""

    issuer: "TrustedIssuer"
    claims: "Claims"
    checks: "tuple[Check, ...]"
    reason: str | None
    signature: str


def _of_token(generation: "Generation", content: bytes, issuer: str | None, asked: "TokenRequest") -> "Document":
    from gateway.clock import SteadyClock
    from gateway.identity.examination import examine_token
    from gateway.jose.compact import parse_token, parse_unverified_claims
    from gateway.oauth.errors import Refusal

    try:
        # A file ends with a line break; nothing else is forgiven that the server does not forgive.
        token = parse_token(content.decode("ascii").rstrip("\r\n"))
        claims = parse_unverified_claims(token)
    except UnicodeDecodeError:
        return _refused(generation, "malformed_token")
    except Refusal as refusal:
        return _refused(generation, refusal.reason.code, refusal.public)
    candidates = _candidates(generation, claims, issuer)
    if not candidates:
        return _unknown_issuer(generation, claims)
    now, facts = SteadyClock()(), []
    for candidate in candidates:
        keys = _keys_at_hand(candidate)
        examined = examine_token(token, claims, candidate, keys, now)
        is_signed = keys is not None and all(check.passed for check in examined.checks if check.path == ("signature",))
        signature = "not checked" if keys is None else "verified" if is_signed else "bad"
        facts.append(_Facts(candidate, claims, examined.checks, examined.reason, signature))
    return _explained(generation, _the_one(facts), asked)


def _of_claims(generation: "Generation", content: bytes, issuer: str | None, asked: "TokenRequest") -> "Document":
    from gateway.identity.examination import examine_claims
    from gateway.jose.strict_json import parse_json_object

    try:
        claims = parse_json_object(content)
    except ValueError as error:
        raise typer.BadParameter(f"is no JSON object of claims: it {error}", param_hint="--claims") from None
    if issuer is None and "iss" not in claims:
        raise typer.BadParameter("say whose claims these are: they have no iss", param_hint="--issuer")
    candidates = _candidates(generation, claims, issuer)
    if not candidates:
        return _unknown_issuer(generation, claims)
    facts = []
    for candidate in candidates:
        filled_in = {"iss": candidate.url, "aud": min(candidate.audiences), **claims}
        examined = examine_claims(filled_in, candidate)
        facts.append(_Facts(candidate, filled_in, examined.checks, examined.reason, "assumed"))
    return _explained(generation, _the_one(facts), asked)


def _candidates(generation: "Generation", claims: "Claims", name: str | None) -> "list[TrustedIssuer]":
    """The issuer that is named, or those whose URL is the ``iss``: several, where clusters share one."""
    from gateway.policy.problems import nearest

    if name is None:
        return [issuer for issuer in generation.issuers if issuer.url == claims.get("iss")]
    found = generation.issuers_by_name.get(name)
    if found is None:
        near = nearest(name, generation.issuers_by_name)
        hint = f" (did you mean {near}?)" if near else ""
        raise typer.BadParameter(f"no Issuer is called {name}{hint}", param_hint="--issuer")
    return [found]


def _the_one(facts: "list[_Facts]") -> _Facts:
    """Of issuers with one URL the one whose key verified the signature."""
    verified = [one for one in facts if one.signature == "verified"]
    open_ = [one for one in facts if one.signature != "bad"]
    for some in (verified, open_, facts):
        if len(some) == 1:
            return some[0]
        if some:
            names = ", ".join(one.issuer.name for one in some)
            raise typer.BadParameter(f"several issuers have this iss: say one of {names}", param_hint="--issuer")
    raise AssertionError("there is at least one issuer")


def _keys_at_hand(issuer: "TrustedIssuer") -> "KeySet | None":
    """The issuer's keys, where they stand in the policies or beside them."""
    from gateway.jose.jwks import parse_key_set

    source = issuer.keys
    try:
        if source.jwks is not None:
            return parse_key_set(source.jwks, algorithms=issuer.algorithms)
        if source.jwks_file is not None:
            return parse_key_set(Path(source.jwks_file).read_bytes(), algorithms=issuer.algorithms)
    except (OSError, ValueError) as error:
        typer.echo(f"The keys of {issuer.name} cannot be used: {error}", err=True)
    return None


def _explained(generation: "Generation", facts: _Facts, asked: "TokenRequest") -> "Document":
    from gateway.policy.explanation import explain as explain_decision
    from gateway.policy.explanation import workload_of
    from gateway.policy.explanation_document import document_of, located
    from gateway.policy.files import locate_problems, policy_text
    from gateway.policy.near_miss import identity_hints

    explanation = explain_decision(generation, workload_of(facts.issuer, facts.claims), asked)
    hints = identity_hints(generation, facts.issuer, facts.claims)
    document = document_of(explanation, reason=facts.reason, identity=facts.checks, hints=hints)
    return {"signature": facts.signature, **located(document, locate_problems, policy_text)}


def _unknown_issuer(generation: "Generation", claims: "Claims") -> "Document":
    from gateway.policy.near_miss import identity_hints

    iss = claims.get("iss")
    said = "The token has no iss." if iss is None else f"No Issuer has the url {ascii(iss)[:200]}."
    return _refused(generation, "unknown_issuer", said, identity_hints(generation, None, claims))


def _refused(generation: "Generation", reason: str, said: str = "", hints: "list[Hint] | None" = None) -> "Document":
    """A token that cannot be asked about: nothing of the policies was looked at."""
    from gateway.model import Decision
    from gateway.policy.explanation_document import denial_document, located
    from gateway.policy.files import locate_problems, policy_text

    document = denial_document(Decision(reason, None, generation.number, wanted=said), hints or ())
    return {"signature": "not checked", **located(document, locate_problems, policy_text)}


# ---------------------------------------------------------------- of a running gateway


def _asked_of_gateway(
    request_id: str, admin: str | None, token_file: Path | None, config: Path | None, *, insecure_http: bool
) -> "Document":
    """What the admin API answers. Exits with 2 where it does not."""
    from urllib.parse import quote

    from gateway.client.errors import ClientError
    from gateway.client.fetch import Fetcher, check_url

    base = admin or _admin_url(config, insecure_http=insecure_http)
    try:
        host = check_url(base, insecure_http=True).hostname
        # Over loopback nobody listens in; anywhere else the token is not for the network to see.
        fetcher = Fetcher(insecure_http=insecure_http or host in _LOOPBACK)
        answer = fetcher.send(
            "GET",
            f"{base.rstrip('/')}/api/explanations/{quote(request_id, safe='')}",
            timeout_seconds=_TIMEOUT_SECONDS,
            headers={"Accept": "application/json", **_authorization(token_file)},
        )
    except ClientError as error:
        _fail(str(error))
    body = _json_object(answer.body)
    if answer.status != 200 or not isinstance(body.get("granted"), bool):
        said = str(body.get("error_description") or "no gateway answers there")
        if answer.status == 401 and token_file is None:
            said += " Send a token for the resource gateway-admin with --admin-token-file."
            if host in _LOOPBACK:
                said += " The gateway's own machine needs none where its setting admin.allow_loopback is true."
        _fail(f"{answer.status}: {said}")
    return body


def _admin_url(config: Path | None, *, insecure_http: bool) -> str:
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import DEFAULT_FILE, AdminSettings, load_settings

    if config is None and not Path(DEFAULT_FILE).exists():
        address = AdminSettings().listen
    else:
        try:
            address = load_settings(config, insecure_http=insecure_http).admin.listen
        except ConfigurationProblems as problems:
            _fail(f"the settings cannot be read, name the admin listener with --admin:\n{problems}")
    host, _, port = address.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - it listens on all, we ask here
    return f"http://{here}:{port}"


def _authorization(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    token = _read(str(token_file), "--admin-token-file").decode("ascii", "replace").strip()
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise typer.BadParameter("holds no token", param_hint="--admin-token-file")
    return {"Authorization": f"Bearer {token}"}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _fail(message: str) -> NoReturn:
    from gateway.policy.problems import visible

    typer.echo("gateway: " + "\n".join(map(visible, message.splitlines())), err=True)
    raise typer.Exit(2)
