"""Lint of what has no effect or too much: rules that never hold or never decide, access that nobody uses. Pure."""

import re
from collections.abc import Iterator, Mapping

from gateway.policy.generation import TrustRule
from gateway.policy.implication import Demands, demands, implies
from gateway.policy.lint.base import AccountView, LintRule, Policies, Remark, TrustView, claim_text, values_text
from gateway.policy.lint.platforms import SUB
from gateway.policy.problems import Place

MAX_RULES_COMPARED = 100
"""Of an account with more rules, each is compared with so many before it."""

_Grants = Mapping[str, tuple[str, ...]]


def _dead(view: TrustView) -> Iterator[Remark]:
    if () in view.facts:
        yield view.remark(
            "no token gets here: the conditions of the rule, its issuer and the guardrails are never all true"
        )
        return
    for path, known in view.facts.items():
        if known.is_impossible:
            whole = "" if view.own.get(path) == known else ", with what the issuer, the guardrails and sub say of it"
            yield view.remark(f"{claim_text(path)} can have no value that the rule wants{whole}", _written(view, path))
            return
    for path, (form, like) in view.platform.forms.items():
        values = view.values(path) or frozenset()
        texts = [one for one in values if isinstance(one, str)]  # another type is for TYP001
        if texts and len(texts) == len(values) and not any(re.fullmatch(form, one) for one in texts):
            told = f"{claim_text(path)} {values_text(values, 1)}: it reads like {like}"
            yield view.remark(f"no token of {view.platform.title} has the {told}", _written(view, path))
            return
    subjects = view.values(SUB)
    pattern = view.issuer.issuer.subject_pattern
    if subjects and not any(isinstance(one, str) and re.fullmatch(pattern, one) for one in subjects):
        words = f"no token of {view.platform.title} has the subject {values_text(subjects, 1)}"
        yield view.remark(words, SUB)


def _hidden(view: AccountView) -> Iterator[Remark]:
    rules = view.account.rules
    for position, rule in enumerate(rules):
        for earlier in rules[max(0, position - MAX_RULES_COMPARED) : position]:
            if _covers(earlier.grants, rule.grants) and implies(rule, earlier):
                words = f"never decides: {earlier.name} stands before it, lets in whoever fits, and gives as much"
                yield Remark(("trust", position), words)
                break


def _twins(policies: Policies) -> Iterator[Remark]:
    seen: dict[Demands, TrustRule] = {}
    for account in policies.generation.service_accounts.values():
        for rule in account.rules:
            first = seen.setdefault(demands(rule), rule)
            if first.service_account != rule.service_account:
                words = f"the same workload may become {first.service_account}, too: it has to say which with client_id"
                yield Remark(("trust", rule.position), words, account.place)


def _wide_glob(view: TrustView) -> Iterator[Remark]:
    given, writing = sum(map(len, view.rule.grants.values())), view.writing
    if not writing or given < 2 or view.rule.grants != view.account.access:
        return
    watched = view.platform.identifying | view.platform.refs | view.platform.files
    for path, glob, where in view.globs:
        if path in watched and "*" in glob:
            yield Remark(where, f"whatever is like {glob} gets all that the account has, {writing[0]} included")
            return


def _unused_role(policies: Policies) -> Iterator[Remark]:
    used = {name for account in policies.generation.service_accounts.values() for name in account.roles}
    for name, place in policies.generation.role_places.items():
        if name not in used:
            yield Remark(("name",), f"no service account has the role {name}", place)


def _unused_scopes(policies: Policies) -> Iterator[Remark]:
    used: dict[str, set[str]] = {}
    for account in policies.generation.service_accounts.values():
        for name, scopes in account.access.items():
            used.setdefault(name, set()).update(scopes)
    for resource in policies.generation.resources.values():
        unused = [scope for scope in resource.scopes if scope not in used.get(resource.name, ())]
        if len(unused) == len(resource.scopes):
            yield Remark(("name",), f"no service account has access to {resource.name}", resource.place)
        else:
            for scope in unused:
                yield Remark(("scopes", scope), f"no service account has {scope}", resource.place)


def _unreachable(view: AccountView) -> Iterator[Remark]:
    if not view.account.rules and view.account.credentials is None:
        yield Remark((), "has no trust rule, and no credential in these files")


def _ungiven_access(view: AccountView) -> Iterator[Remark]:
    account = view.account
    if not account.rules or account.credentials is not None:
        return
    for name, scopes in account.access.items():
        given = {scope for rule in account.rules for scope in rule.grants.get(name, ())}
        for scope in scopes:
            if scope not in given:
                yield Remark(("access",), f"has {scope} at {name}, which none of its trust rules gives")


def _warnings_of_the_load(policies: Policies) -> Iterator[Remark]:
    for warning in policies.generation.warnings:
        if warning.line:  # without one it is about a file that is no policy file
            message = warning.message + (f" (did you mean {warning.suggestion}?)" if warning.suggestion else "")
            yield Remark(warning.path, message, Place(warning.file, warning.line, warning.document))


def _covers(wide: _Grants, narrow: _Grants) -> bool:
    return all(set(scopes) <= set(wide.get(name, ())) for name, scopes in narrow.items())


def _written(view: TrustView, claim: tuple[str, ...]) -> tuple[str, ...]:
    return claim if view.mentions(claim) else SUB


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="POL001",
        severity="error",
        title="A rule that can never hold",
        why="Its conditions contradict each other, the issuer or a guardrail, or ask for a value that the platform "
        "never writes. Whoever was to be let in is not, and the rule hides that.",
        fix="Correct the condition that is named, or remove the rule.",
        of_trust=_dead,
    ),
    LintRule(
        id="POL002",
        severity="warning",
        title="A rule that never decides",
        why="Rules are asked in the order of the file, and the first that gives what was asked for wins. The "
        "earlier rule lets in everybody that this one does and gives no less, so that its shorter lifetime or other "
        "claims have no effect.",
        fix="Move the narrower rule up, or remove it.",
        of_account=_hidden,
    ),
    LintRule(
        id="POL004",
        severity="info",
        title="One workload, two service accounts",
        why="The workload may act as either, and has to say which; a client that leaves client_id out is refused as "
        "ambiguous.",
        fix="Tell the workloads apart by a further condition, or send client_id.",
        of_policies=_twins,
    ),
    LintRule(
        id="POL005",
        severity="warning",
        title="A glob gives everything",
        why="Whoever can make a name that fits gets all access of the account, what writes included.",
        fix="Narrow scopes of the rule to what these workloads need, or list the names.",
        of_trust=_wide_glob,
    ),
    LintRule(
        id="ACC001",
        severity="warning",
        title="Access that no rule gives",
        why="Every trust rule narrows its scopes, and none of them gives this one. It waits for a rule that forgets "
        "to.",
        fix="Remove the scope from access, or from the rules' scopes what keeps it out.",
        of_account=_ungiven_access,
    ),
    LintRule(
        id="USE001",
        severity="warning",
        title="A role that nobody has",
        why="It gives nothing to anybody, until somebody lists it without looking.",
        fix="Remove the Role, or list it under roles of a service account.",
        of_policies=_unused_role,
    ),
    LintRule(
        id="USE002",
        severity="info",
        title="A scope that nobody has",
        why="No service account may ask for it: the API's scope is declared for nobody, or an account lacks it.",
        fix="Remove the scope, or give it to whom it is for.",
        of_policies=_unused_scopes,
    ),
    LintRule(
        id="USE004",
        severity="info",
        title="A service account that nobody can become",
        why="It has neither a trust rule nor a credential in these files. A secret in the shared state would be the "
        "only way.",
        fix="Remove it, or add the trust rule; silence this where its secret is in the shared state.",
        of_account=_unreachable,
    ),
    LintRule(
        id="LOAD001",
        severity="warning",
        title="What gateway check warns of",
        why="The files load, and something in them is probably a mistake: a claim that the platform's tokens do not "
        "have, or a URL that is not like its issuers'.",
        fix="Correct what is named.",
        of_policies=_warnings_of_the_load,
    ),
)
