"""Lint of issuers: whose tokens are believed, and by which keys. Pure."""

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.policy.documents import duration_text
from gateway.policy.lint.base import IssuerView, LintRule, Remark
from gateway.policy.lint.platforms import UNKNOWN

_SHARED_NAME = re.compile(r"https://kubernetes(?:\.default(?:\.svc(?:\.[a-z0-9.-]+)?)?)?/?")
_MULTI_TENANT = re.compile(r"https://login\.[a-z.]+/(?:common|organizations|consumers)(?:/.*)?")
_STORAGE = re.compile(
    r"(?:.+\.)?s3[.-](?:[a-z0-9-]+\.)*amazonaws\.com(?:\.cn)?|.+\.blob\.core\.windows\.net|storage\.googleapis\.com"
    r"|.+\.cloudfront\.net|.+\.r2\.dev"
)
_WITHOUT_SLASH = frozenset({"kubernetes", "openshift", "gitlab-ci"})
_LOGIN_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def _slash(view: IssuerView) -> Iterator[Remark]:
    url, preset = view.issuer.url, view.issuer.preset
    if preset in _WITHOUT_SLASH and url.endswith("/"):
        yield Remark(("url",), f"{view.platform.title} writes no slash at the end of iss")
    if preset == "aks" and not url.endswith("/"):
        yield Remark(("url",), f"{view.platform.title} writes a slash at the end of iss")
    if re.match(r"https://sts\.(?:windows\.net|chinacloudapi\.cn)/", url) and not url.endswith("/"):
        yield Remark(("url",), "version 1 tokens of Entra have a slash at the end of iss")


def _shared_name(view: IssuerView) -> Iterator[Remark]:
    keys = view.issuer.keys
    found_by_url = keys.discovery_url is not None and keys.discovery_url.startswith(view.issuer.url.rstrip("/"))
    if _SHARED_NAME.fullmatch(view.issuer.url) and found_by_url and keys.ca_file is None:
        yield Remark(("url",), f"{view.issuer.url} is the name of every cluster, and its keys are looked up there")


def _every_tenant(view: IssuerView) -> Iterator[Remark]:
    if _MULTI_TENANT.fullmatch(view.issuer.url):
        yield Remark(("url",), f"{view.issuer.url} stands for every tenant of Entra")


def _storage(view: IssuerView) -> Iterator[Remark]:
    keys = view.issuer.keys
    if _STORAGE.fullmatch(urlsplit(view.issuer.url).hostname or "") and keys.jwks is None and keys.jwks_file is None:
        yield Remark(("url",), "the keys are fetched from shared storage, where whoever owns the bucket writes them")


def _private_address(view: IssuerView) -> Iterator[Remark]:
    keys = view.issuer.keys
    for field in ("jwks_uri", "discovery_url"):
        url: str | None = getattr(keys, field)
        if url is not None and not keys.private_network and _is_private(urlsplit(url).hostname or ""):
            yield Remark(("keys", field), f"{urlsplit(url).hostname} is on a private network, which is not dialled")


def _old_versions(view: IssuerView) -> Iterator[Remark]:
    if view.platform.family == "gitlab" and view.issuer.url != "https://gitlab.com":
        words = "before GitLab 18.2.2 the token of a fork's merge request describes the project that it goes to"
        yield Remark(("url",), words)
    if view.platform.family == "github" and view.issuer.url.endswith("/_services/token"):
        yield Remark(("url",), "up to version 3.18 a server leaves : in sub as it is, and no version has ids in sub")


def _without_preset(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.preset != UNKNOWN.name:
        return
    if view.issuer.url == "https://gitlab.com":
        yield Remark(("preset",), "is generic, and this is the URL of GitLab: use preset gitlab-ci")
    for preset in view.policies.presets.values():
        if preset.url_pattern != view.policies.presets[UNKNOWN.name].url_pattern and re.fullmatch(
            preset.url_pattern, view.issuer.url
        ):
            yield Remark(("preset",), f"is generic, and this is a URL of {preset.title}: use preset {preset.name}")


def _missing_kid(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.allow_missing_kid and view.platform.always_sends_kid:
        yield Remark(("allow_missing_kid",), f"{view.platform.title} names its key in every token")


def _pinned_keys(view: IssuerView) -> Iterator[Remark]:
    keys = view.issuer.keys
    if view.platform.rotates_keys and (keys.jwks is not None or keys.jwks_file is not None):
        field = "jwks" if keys.jwks is not None else "jwks_file"
        yield Remark(("keys", field), f"{view.platform.title} changes its keys by itself, and these stay as they are")


def _told_to_strangers(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.explain_denials == "full" and view.platform.tenant:
        yield Remark(("explain_denials",), f"everybody at {view.platform.title} can have a token that is explained to")


def _age(view: IssuerView) -> Iterator[Remark]:
    if view.platform.fixed_audience:
        return
    longest = view.platform.longest_age_seconds
    for field in ("max_token_age", "max_token_lifetime"):
        seconds: int = getattr(view.issuer, f"{field}_seconds")
        if seconds > longest and not (view.platform.family == "kubernetes" and field == "max_token_lifetime"):
            yield Remark(
                (field,),
                f"{duration_text(seconds)} is more than tokens of {view.platform.title} need: {duration_text(longest)}",
            )


def _could_work_once(view: IssuerView) -> Iterator[Remark]:
    if view.platform.fresh_token_each_time and view.issuer.replay == "allow":
        yield Remark(("replay",), f"a job of {view.platform.title} can ask for a fresh token each time")


def _works_once(view: IssuerView) -> Iterator[Remark]:
    if view.platform.family == "gitlab" and view.issuer.replay == "reject":
        yield Remark(("replay",), "a job of GitLab has one token for its whole life: its second exchange is refused")


def _unused(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.name not in view.policies.generation.index:
        yield Remark(("name",), f"no trust rule names {view.issuer.name}")


def _is_private(host: str) -> bool:
    if host in _LOGIN_NAMES or host.endswith((".svc.cluster.local", ".localhost")):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="ISS003",
        severity="warning",
        title="The slash at the end of the URL is not the platform's",
        why="iss is compared byte for byte. With a slash too many or too few no token ever fits.",
        fix="Copy iss from a token, or issuer from the discovery document.",
        of_issuer=_slash,
    ),
    LintRule(
        id="ISS004",
        severity="error",
        title="Keys of a cluster are looked up under a name that all clusters have",
        why="https://kubernetes.default.svc leads to whatever cluster the gateway happens to run in. If that is "
        "another one than was meant, the wrong workloads are trusted.",
        fix="Give the cluster's own keys: jwks_uri with its ca_file, or jwks_file. Where the gateway runs in the "
        "cluster itself, ca_file alone says so.",
        of_issuer=_shared_name,
    ),
    LintRule(
        id="ISS008",
        severity="error",
        title="An issuer that stands for every tenant",
        why="common, organizations and consumers are no tenant: every organisation's tokens would be believed.",
        fix="Name one tenant by its id: https://login.microsoftonline.com/<tenant id>/v2.0.",
        of_issuer=_every_tenant,
    ),
    LintRule(
        id="ISS010",
        severity="warning",
        title="Keys in shared storage are fetched",
        why="When the bucket of a deleted cluster is made anew by somebody else, they publish their keys under the "
        "old issuer.",
        fix="Keep the keys in a file (jwks_file) or in the policy (jwks), or make sure that the bucket is never "
        "given up.",
        of_issuer=_storage,
    ),
    LintRule(
        id="ISS012",
        severity="warning",
        title="Keys on a private network that is not dialled",
        why="Keys are fetched from loopback, private and link-local addresses only where that is asked for, so that "
        "a policy cannot make the gateway call what is beside it. These keys can never be fetched.",
        fix="Set private_network: true under keys, if the address is right.",
        of_issuer=_private_address,
    ),
    LintRule(
        id="ISS013",
        severity="info",
        title="A server of one's own, whose version counts",
        why="Older versions of GitLab and of GitHub Enterprise Server fill in some claims differently, and a rule "
        "that is safe with a new one need not be with them.",
        fix="Keep the server at GitLab 18.2.2, GitHub Enterprise Server 3.19 or later, and silence this with the "
        "version.",
        of_issuer=_old_versions,
    ),
    LintRule(
        id="ISS014",
        severity="warning",
        title="A known platform without its preset",
        why="The preset knows which claims every token of the platform has, how long it lives and what it is signed "
        "with. Without it other tokens of the same issuer are taken as well, those of people among them.",
        fix="Set preset to the platform's.",
        of_issuer=_without_preset,
    ),
    LintRule(
        id="KEY001",
        severity="warning",
        title="Tokens that name no key are accepted without need",
        why="This platform always says which key signed. A token that does not was made by something else.",
        fix="Remove allow_missing_kid.",
        of_issuer=_missing_kid,
    ),
    LintRule(
        id="KEY002",
        severity="warning",
        title="Keys that the platform changes are kept fixed",
        why="The platform changes its keys without notice, some of them every week. After that every token is "
        "refused until somebody brings the file up to date.",
        fix="Leave jwks and jwks_file out: discovery finds the keys that are in use.",
        of_issuer=_pinned_keys,
    ),
    LintRule(
        id="EXP001",
        severity="warning",
        title="Strangers are told what the policy wants",
        why="With explain_denials: full, whoever has a token of this issuer learns the conditions of the rules. "
        "Anybody can get a token of a platform that many organisations share.",
        fix="Leave explain_denials at reason: the audit record of the request_id tells operators the rest.",
        of_issuer=_told_to_strangers,
    ),
    LintRule(
        id="LIFE001",
        severity="warning",
        title="Workload tokens are accepted for longer than they are needed",
        why="A stolen token works until it is too old. The platform makes shorter ones.",
        fix="Leave max_token_age and max_token_lifetime to the preset, or set them lower.",
        of_issuer=_age,
    ),
    LintRule(
        id="JTI001",
        severity="info",
        title="Tokens could work once, and work until they expire",
        why="A job of this platform gets a fresh token whenever it asks, so that each of them can be made to work "
        "once at little cost. A stolen one is then worth nothing.",
        fix="Set replay: reject.",
        of_issuer=_could_work_once,
    ),
    LintRule(
        id="JTI002",
        severity="warning",
        title="Tokens work once, and a job has one for its whole life",
        why="The platform hands a job one token in a variable. With replay: reject it can be exchanged once, and a "
        "job with two steps, such as plan and apply, fails at the second.",
        fix="Remove replay: reject, or silence this where no job exchanges twice.",
        of_issuer=_works_once,
    ),
    LintRule(
        id="USE003",
        severity="warning",
        title="An issuer that no trust rule names",
        why="Its keys are fetched and its tokens verified for nothing. It is easily forgotten when it should go.",
        fix="Remove the Issuer, or write the trust rule that was meant to name it.",
        of_issuer=_unused,
    ),
)
