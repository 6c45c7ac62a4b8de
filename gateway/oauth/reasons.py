"""Every reason for which the gateway says no, once.

The HTTP answer, the label of the metric, the field of the audit record and the page of the reference are all
derived from this table. A code is a promise to scripts: it is never renamed.
"""

from dataclasses import dataclass
from typing import Literal

Stage = Literal[
    "request", "client", "malformed", "issuer", "algorithm", "key", "signature", "claims", "policy", "target", "scope",
    "quota", "replay", "server",
]  # fmt: skip
"""How far a request came before it was refused, in the order of the hallway (``gateway/exchange.py``)."""

TOKEN_FAULT = "token_fault"
"""Stands for the OAuth error of an unacceptable subject token, which differs between the grants:
``invalid_request`` in a token exchange (RFC 8693 §2.2.2), ``invalid_grant`` with an assertion (RFC 7523 §3.1),
``invalid_client`` where it authenticates the client (RFC 7523 §3.2)."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One way to be refused."""

    code: str
    stage: Stage
    error: str
    """The OAuth error code (RFC 6749 §5.2, RFC 8707 §2), or ``TOKEN_FAULT``."""
    sentence: str
    """What the caller is told when nothing more precise is known. RFC 6749 §5.2 characters only."""
    advice: str
    """What to do about it, for the reference and for operators."""
    status: int = 400
    retry_after_seconds: int | None = None


GRANTED = "granted"

_TABLE = (
    # -- the request itself
    Reason("malformed_request", "request", "invalid_request", "The request body is not a form.",
           "Send the parameters as application/x-www-form-urlencoded, UTF-8, by POST."),
    Reason("request_too_large", "request", "invalid_request", "The request is too large.",
           "A token request holds one token and a few short parameters.", 413),
    Reason("unsupported_encoding", "request", "invalid_request", "The request body is compressed or not UTF-8.",
           "Send the form as plain UTF-8, without Content-Encoding.", 415),
    Reason("request_timeout", "request", "invalid_request", "The request body did not arrive in time.",
           "Send the body at once; look for a stalling proxy.", 408),
    Reason("parameter_in_query", "request", "invalid_request", "OAuth parameters belong in the body.",
           "Move the parameter from the URL into the form: URLs end up in logs (RFC 6749 section 3.2)."),
    Reason("duplicate_parameter", "request", "invalid_request", "A parameter was sent twice.",
           "Send each parameter once; only resource and audience may be repeated."),
    Reason("missing_parameter", "request", "invalid_request", "A required parameter is missing.",
           "Add the parameter that the answer names."),
    Reason("invalid_parameter", "request", "invalid_request", "A parameter has a value that cannot be read.",
           "Correct the parameter that the answer names."),
    Reason("unsupported_grant_type", "request", "unsupported_grant_type", "This grant type is not served here.",
           "Use one of the grant types in the server's metadata."),
    Reason("unsupported_response_type", "request", "unsupported_response_type", "Nobody signs in here.",
           "Ask the token endpoint; machines need no authorization endpoint."),
    Reason("unsupported_token_type", "request", "invalid_request", "This type of token is not accepted here.",
           "Send a workload token as urn:ietf:params:oauth:token-type:jwt."),
    Reason("unsupported_requested_token_type", "request", "invalid_request", "Only access tokens are minted.",
           "Leave requested_token_type out, or ask for urn:ietf:params:oauth:token-type:access_token."),
    Reason("invalid_client_certificate", "request", "invalid_client",
           "The client certificate that the proxy handed on cannot be read.",
           "Look at the proxy, not at the client: does it set the header of client_certificates once, in that form, "
           "over whatever the client sent?", 401),
    Reason("invalid_dpop_proof", "request", "invalid_dpop_proof", "The DPoP proof is not acceptable.",
           "Make a fresh proof for each request, as RFC 9449 section 4.2 says; see what the answer names."),
    # -- client authentication
    Reason("client_authentication_unsupported", "client", "invalid_client",
           "This way to authenticate is not served here.",
           "Use one of the token_endpoint_auth_methods_supported in the server's metadata.", 401),
    Reason("multiple_client_authentication", "client", "invalid_request",
           "A client authenticates in one way at a time.",
           "Send an Authorization header, or client_secret, or client_assertion (RFC 6749 section 2.3): one of them."),
    Reason("client_authentication_missing", "client", "invalid_client", "The client did not authenticate.",
           "Send a client secret, a client_assertion or a TLS client certificate; see the server's metadata.", 401),
    Reason("client_authentication_failed", "client", "invalid_client", "Client authentication failed.",
           "Compare client_id and credential; the audit record of the request_id says what was wrong. Has the secret "
           "expired (gateway client list), or the assertion?", 401),
    Reason("client_keys_unavailable", "client", "temporarily_unavailable",
           "The client's keys cannot be had right now.",
           "Wait and repeat; look at the jwks_uri or jwks_file of the service account's credentials.", 503, 5),
    Reason("client_mismatch", "client", "invalid_client", "client_id is not the client that authenticated.",
           "Leave client_id out, or send that of the client whose credential this is.", 401),
    Reason("token_of_another_client", "client", "unauthorized_client", "The token was issued to another client.",
           "A client revokes its own tokens; for those of others, an operator has gateway revoke."),
    Reason("sender_constraint_missing", "target", "invalid_request",
           "Tokens for this resource are bound to a key of the client.",
           "Send a DPoP proof (RFC 9449), or use a TLS client certificate (RFC 8705), as the resource asks."),
    # -- the token as text
    Reason("token_too_large", "malformed", TOKEN_FAULT, "The token is larger than 16 KiB.",
           "Look at what was sent: a file of another kind, or several tokens?"),
    Reason("malformed_token", "malformed", TOKEN_FAULT,
           "The token is not a compact signed JWT: three base64url parts, no quotes, no line break.",
           "Send the token as the platform wrote it; a line break at the end of a file is the commonest cause."),
    Reason("malformed_header", "malformed", TOKEN_FAULT, "The token's header cannot be read.",
           "The header must be a plain JSON object with an alg."),
    Reason("forbidden_header", "malformed", TOKEN_FAULT, "The token's header asks for something never honoured.",
           "crit, b64, jku, jwk, x5u, zip and cty have no place in a workload token."),
    Reason("wrong_token_type", "malformed", TOKEN_FAULT, "The token is of another kind (typ).",
           "Send the workload's identity token, not an access token, proof or logout token."),
    # -- who signed it
    Reason("unknown_issuer", "issuer", TOKEN_FAULT, "No issuer of that name is trusted here.",
           "Compare the token's iss with the url of the Issuer documents, byte for byte: slashes and case count."),
    Reason("algorithm_not_allowed", "algorithm", TOKEN_FAULT, "The token's alg is not accepted for its issuer.",
           "Use an algorithm of the issuer's list; symmetric ones and none never are."),
    Reason("missing_key_id", "key", TOKEN_FAULT, "The token names no key (kid).",
           "Set allow_missing_kid on the issuer if its platform really sends none."),
    Reason("unknown_key", "key", TOKEN_FAULT, "The token's key (kid) is not among its issuer's keys.",
           "Was the token signed by this cluster or instance? Has the issuer just rotated? Try again in a minute."),
    Reason("issuer_unavailable", "key", "temporarily_unavailable", "The issuer's keys cannot be had right now.",
           "Wait and repeat; look at gateway_issuer_key_fetches_total and at /readyz for the cause.", 503, 5),
    Reason("bad_signature", "signature", TOKEN_FAULT, "The token's signature does not verify.",
           "The token was changed, or signed by another key of the same name."),
    # -- what it says
    Reason("malformed_claims", "claims", TOKEN_FAULT, "The token's claims cannot be read.",
           "Claims are one JSON object without duplicate names, fractions or control characters."),
    Reason("missing_claim", "claims", TOKEN_FAULT, "A claim that its issuer always sends is missing.",
           "Is the issuer's preset the right one? Is it another kind of token of the same platform?"),
    Reason("invalid_claim", "claims", TOKEN_FAULT, "A claim has a value that cannot be.",
           "See the claim that the answer names."),
    Reason("token_expired", "claims", TOKEN_FAULT, "The token has expired.",
           "Fetch a fresh one just before the exchange; re-read a mounted file each time."),
    Reason("token_revoked", "claims", TOKEN_FAULT, "The token was revoked.",
           "Get a new one; gateway revoke --list says what was revoked, when and why."),
    Reason("token_not_yet_valid", "claims", TOKEN_FAULT, "The token is not valid yet.",
           "Compare the clocks of the issuer and of this server."),
    Reason("token_too_old", "claims", TOKEN_FAULT, "The token was issued too long ago for its issuer.",
           "Fetch a fresh one, or raise max_token_age of the issuer."),
    Reason("token_lifetime_too_long", "claims", TOKEN_FAULT, "The token lives longer than its issuer may allow.",
           "Ask the platform for a shorter one (a projected token, not the default API token)."),
    Reason("wrong_audience", "claims", TOKEN_FAULT, "The token was made for somebody else (aud).",
           "Ask the platform for a token with this server's issuer URL as the only audience."),
    Reason("reserved_audience", "claims", TOKEN_FAULT, "The token's audience belongs to another relying party.",
           "Never send us a token that opens another door; ask for one with our audience."),
    # -- what the policy says
    Reason("issuer_condition_failed", "policy", TOKEN_FAULT, "The token does not meet its issuer's condition.",
           "Look at when of the Issuer document."),
    Reason("denied_by_guardrail", "policy", TOKEN_FAULT, "The organisation's guardrails refuse this workload.",
           "Look at the Guardrail document named in the audit record."),
    Reason("unknown_service_account", "policy", TOKEN_FAULT, "client_id names no service account.",
           "Compare client_id with the names of the ServiceAccount documents."),
    Reason("no_matching_trust", "policy", TOKEN_FAULT, "No trust rule lets this workload become a service account.",
           "Ask gateway policy explain --request ID with the request_id: it names the rule that came nearest, the "
           "check that failed, and what to change. The audit log says it in short."),
    Reason("ambiguous_service_account", "policy", TOKEN_FAULT, "The workload may become several service accounts.",
           "Say which one with client_id."),
    Reason("unnameable_service_account", "policy", TOKEN_FAULT,
           "The workload's claims make no name for a service account.",
           "Look at for_each of the ServiceAccount: a value that holds its separator, or more than lower-case letters, "
           "digits, dots, dashes and underscores, goes into no name."),
    Reason("unmappable_claim", "policy", TOKEN_FAULT, "A claim that the policy copies into the token cannot be.",
           "Look at token_claims of the service account."),
    Reason("unknown_resource", "target", "invalid_target", "No such resource.",
           "Send a resource's identifier or name as resource or audience."),
    Reason("resource_not_granted", "target", "invalid_target", "The service account has no access to this resource.",
           "Add the resource to access, or to a role, of the service account."),
    Reason("ambiguous_resource", "target", "invalid_target", "The service account has several resources.",
           "Say which one with resource or audience."),
    Reason("multiple_resources", "target", "invalid_target", "A token is for one resource.",
           "Ask for one token per resource."),
    Reason("malformed_scope", "scope", "invalid_scope", "scope is not a list of scope names.",
           "Separate scopes by single spaces; each is printable ASCII (RFC 6749 section 3.3)."),
    Reason("scope_not_granted", "scope", "invalid_scope", "A scope was asked for that is not granted.",
           "Ask only for scopes that the service account has at this resource, and that the matched rule grants."),
    # -- a token of our own as the subject
    Reason("narrowing_only", "policy", TOKEN_FAULT, "A token of this server can only be narrowed.",
           "Ask for the same resource and for scopes that the token has, or delegate with actor_token."),
    Reason("actor_not_permitted", "policy", TOKEN_FAULT, "The actor may not act with this token.",
           "Only a service account in served_by of the token's resource may pass the call on."),
    Reason("delegation_too_deep", "policy", TOKEN_FAULT, "The chain of actors is too long.",
           "A token names at most three actors: the workload that asked first, and two that passed the call on."),
    # -- a token of our own that a proxy asks about
    Reason("access_token_missing", "request", "invalid_token", "The request carries no access token.",
           "Send it as Authorization: Bearer, or Authorization: DPoP where it is bound to a key.", 401),
    Reason("confirmation_failed", "claims", "invalid_token",
           "The token is bound to a key that the request does not prove.",
           "Send a DPoP proof or the client certificate of the key that the token was got with; the proxy must hand on "
           "what that needs, and be one of trusted_proxies or client_certificates.proxies.", 401),
    Reason("insufficient_scope", "claims", "insufficient_scope", "The token lacks a scope that is needed here.",
           "Ask for the scope when getting the token; the answer's WWW-Authenticate names it.", 403),
    # -- once only
    Reason("token_replayed", "replay", TOKEN_FAULT, "The token was used before.",
           "This issuer's tokens work once: fetch a fresh one for each exchange."),
    Reason("proof_replayed", "replay", "invalid_dpop_proof", "The DPoP proof was used before.",
           "Make a new proof for each request (RFC 9449 section 4.2)."),
    # -- too much
    Reason("quota_exceeded", "quota", "temporarily_unavailable", "Too many requests.",
           "Wait as long as Retry-After says; raise rate_limit of the service account or the quotas of the settings.",
           429, 1),
    # -- our own troubles
    Reason("overloaded", "server", "temporarily_unavailable", "The server has too much to do.",
           "Wait and repeat; add a replica.", 503, 1),
    Reason("state_unavailable", "server", "temporarily_unavailable", "The shared state cannot be reached.",
           "Wait and repeat; look at the state backend.", 503, 2),
    Reason("audit_unavailable", "server", "temporarily_unavailable", "The decision could not be written down.",
           "Nothing is minted without a record: free disk space or repair the sink, and repeat with a fresh token.",
           503, 5),
    Reason("signing_unavailable", "server", "temporarily_unavailable", "No signing key is at hand.",
           "Look at the key store; see gateway_signing_key_age_seconds.", 503, 5),
    Reason("internal_error", "server", "server_error", "The server made a mistake.",
           "Look up the request_id in the server's log.", 500),
)  # fmt: skip

REASONS: dict[str, Reason] = {reason.code: reason for reason in _TABLE}
