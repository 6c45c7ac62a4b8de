"""Lint of Kubernetes service accounts, on whichever platform the cluster runs. Pure."""

from collections.abc import Iterator

from gateway.policy.documents import duration_text
from gateway.policy.lint.base import IssuerView, LintRule, Remark, TrustView
from gateway.policy.lint.facts import Facts
from gateway.policy.lint.platforms import ACCOUNT, DAY, HOUR, NAMESPACE, POD, SUB

_FAMILY = frozenset({"kubernetes"})
_PLATFORMS_OWN = ("kube-", "openshift-")


def _namespace(view: TrustView) -> Iterator[Remark]:
    if not view.is_fixed(NAMESPACE):
        yield view.remark("the namespace is not fixed", SUB if view.mentions(SUB) else None)


def _default_account(view: TrustView) -> Iterator[Remark]:
    if "default" in (view.values(ACCOUNT) or ()):
        yield view.remark(
            "every pod of the namespace without an account of its own is default", _written(view, ACCOUNT)
        )


def _platforms_namespace(view: TrustView) -> Iterator[Remark]:
    values = [value for value in view.values(NAMESPACE) or () if isinstance(value, str)]
    for namespace in sorted(value for value in values if value.startswith(_PLATFORMS_OWN)):
        yield view.remark(f"{namespace} is a namespace of the platform itself", _written(view, NAMESPACE))


def _unbound(view: IssuerView) -> Iterator[Remark]:
    if _demands_pod(view.facts):
        return
    lacking = next((rule for rule in view.rules if not _demands_pod(view.trust(rule).facts)), None)
    if lacking is not None:
        yield Remark((), f"accepts tokens that are bound to no pod, for {lacking.label} at least")


def _long_lived(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.max_token_lifetime_seconds > DAY:
        seconds = view.issuer.max_token_lifetime_seconds
        yield Remark(("max_token_lifetime",), f"accepts tokens that live up to {duration_text(seconds)}")


def _deleted_pods(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.max_token_lifetime_seconds > HOUR:
        longest = duration_text(view.issuer.max_token_lifetime_seconds)
        yield Remark(("max_token_lifetime",), f"the token of a deleted pod works until it expires, for up to {longest}")


def _works_once(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.replay == "reject":
        yield Remark(("replay",), "a pod has one token until it is renewed: its second exchange is refused")


def _demands_pod(facts: Facts) -> bool:
    return any(path[: len(POD)] == POD and known.present for path, known in facts.items())


def _written(view: TrustView, claim: tuple[str, ...]) -> tuple[str, ...]:
    return claim if view.mentions(claim) else SUB


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="K8S001",
        severity="error",
        title="The namespace is not fixed",
        why="Whoever may create a namespace, or pods in one of their own, runs workloads under whatever account "
        "name the rule asks for. The namespace is the border between teams.",
        fix="Match the whole sub, system:serviceaccount:<namespace>:<account>; or make the namespace part of a "
        "template's name.",
        families=_FAMILY,
        of_trust=_namespace,
    ),
    LintRule(
        id="K8S002",
        severity="warning",
        title="The account that every pod has",
        why="A pod that names no service account runs as default. Every such pod of the namespace gets the access, "
        "one that is started for debugging included.",
        fix="Give the workload a service account of its own in the cluster, and name that.",
        families=_FAMILY,
        of_trust=_default_account,
    ),
    LintRule(
        id="K8S003",
        severity="warning",
        title="A namespace of the platform itself",
        why="What runs in kube-system and its like belongs to the cluster or its vendor, changes with each upgrade, "
        "and has more rights than any workload.",
        fix="Run the workload in a namespace of its own.",
        families=_FAMILY,
        of_trust=_platforms_namespace,
    ),
    LintRule(
        id="K8S004",
        severity="warning",
        title="Tokens that belong to no pod",
        why="Whoever may create tokens of a service account (kubectl create token) gets one for any audience, which "
        "is tied to no pod and can be used from anywhere.",
        fix='Add to the Issuer: when: has(claims["kubernetes.io"].pod).',
        families=_FAMILY,
        of_issuer=_unbound,
    ),
    LintRule(
        id="K8S005",
        severity="error",
        title="Tokens that live longer than a day",
        why="A projected token is renewed every day at the latest. What lives longer is the API server's own "
        "default token, or one that was made by hand.",
        fix="Remove max_token_lifetime: the preset accepts 24h.",
        families=_FAMILY,
        of_issuer=_long_lived,
    ),
    LintRule(
        id="K8S006",
        severity="info",
        title="A deleted pod's token still works",
        why="Only the API server knows at once that a pod is gone. Here its token is good until it expires.",
        fix="Have tokens of an hour projected (expirationSeconds: 3600), and set max_token_lifetime: 1h.",
        families=_FAMILY,
        of_issuer=_deleted_pods,
    ),
    LintRule(
        id="K8S007",
        severity="error",
        title="Tokens of pods work once",
        why="A pod reads the same token from its file until the kubelet renews it, after most of its life. All "
        "exchanges but the first are refused.",
        fix="Remove replay: reject.",
        families=_FAMILY,
        of_issuer=_works_once,
    ),
)
