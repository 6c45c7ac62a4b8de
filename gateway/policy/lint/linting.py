"""Lints a generation: every rule on everything that it is about, but for what comments in the files silence. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.policy.lint.base import (
    SEVERITIES,
    AccountView,
    Finding,
    LintRule,
    Policies,
    Remark,
    Severity,
    TrustView,
)
from gateway.policy.lint.catalogue import (
    IGNORED_NOTHING,
    IGNORED_UNKNOWN_RULE,
    IGNORED_WITHOUT_REASON,
    RULES,
)
from gateway.policy.lint.comments import Ignore, ignores_in
from gateway.policy.problems import Place, Problem, nearest

Locate = Callable[[Iterable[Problem]], list[Problem]]
"""From problems to the same ones, in the same order, on their exact lines."""


@dataclass(frozen=True, slots=True)
class Report:
    """What lint found, by file and line; of those below the severity that was asked for only how many there are."""

    findings: tuple[Finding, ...]
    silenced: int
    """How many were silenced by comments."""
    left_out: int
    """How many weigh less than what was asked for."""


def lint(
    policies: Policies,
    files: Iterable[str],
    text_of: Callable[[str], str | None],
    locate: Locate,
    *,
    severity: Severity = "info",
) -> Report:
    """All findings of at least this severity.

    ``files`` are the policy files, ``text_of`` their texts, in which comments are looked for.
    """
    ignores = {file: comments for file in files if (comments := list(ignores_in(text_of(file) or "")))}
    raw = list(_findings(policies))
    # To find a line is to read its file once more: only where the line is shown, or may bear a comment.
    wanted = [one for one in raw if _weighs(one.severity, severity) or one.problem.file in ignores]
    located = [
        replace(one, problem=problem)
        for one, problem in zip(wanted, locate([one.problem for one in wanted]), strict=True)
    ]
    kept, about_comments = _without_silenced(located, ignores)
    found = [one for one in (*kept, *about_comments) if _weighs(one.severity, severity)]
    found.sort(key=lambda one: (one.problem.file, one.problem.line, SEVERITIES.index(one.severity), one.id))
    silenced = len(located) - len(kept)
    left_out = len(raw) - silenced + len(about_comments) - len(found)
    return Report(tuple(found), silenced, left_out)


def _findings(policies: Policies) -> Iterator[Finding]:
    for rule in RULES.values():
        if rule.of_policies is not None:
            for remark in rule.of_policies(policies):
                yield _finding(rule, remark, None)
    for issuer in policies.issuers.values():
        for rule in RULES.values():
            if rule.of_issuer is not None and (not rule.families or issuer.platform.family in rule.families):
                for remark in rule.of_issuer(issuer):
                    yield _finding(rule, remark, issuer.place)
    rules_for: dict[str, Sequence[LintRule]] = {}
    for account in policies.generation.service_accounts.values():
        trust = tuple(policies.issuers[rule.issuer].trust(rule) for rule in account.rules)
        yield from _of_account(AccountView(policies, account, trust))
        for view in trust:
            family = view.platform.family
            if family not in rules_for:
                rules_for[family] = _trust_rules(family)
            # Of a rule that never holds it is no question whom it lets in.
            yield from list(_of_trust(view, _NEVER_HOLDS)) or _of_trust(view, rules_for[family])


def _of_account(view: AccountView) -> Iterator[Finding]:
    for rule in _ACCOUNT_RULES:
        assert rule.of_account is not None
        for remark in rule.of_account(view):
            yield _finding(rule, remark, view.place)


def _of_trust(view: TrustView, rules: Sequence[LintRule]) -> Iterator[Finding]:
    for rule in rules:
        assert rule.of_trust is not None
        for remark in rule.of_trust(view):
            yield _finding(rule, remark, view.place)


_NEVER_HOLDS = (RULES["POL001"],)
_ACCOUNT_RULES = tuple(rule for rule in RULES.values() if rule.of_account is not None)


def _trust_rules(family: str) -> Sequence[LintRule]:
    found = [rule for rule in RULES.values() if rule.of_trust is not None and rule not in _NEVER_HOLDS]
    return [rule for rule in found if not rule.families or family in rule.families]


def _finding(rule: LintRule, remark: Remark, place: Place | None) -> Finding:
    where = remark.place or place
    assert where is not None, f"{rule.id} does not say in which document"
    return Finding(rule.id, rule.severity, where.problem(remark.path, remark.message), rule.fix)


def _weighs(severity: Severity, least: Severity) -> bool:
    return SEVERITIES.index(severity) <= SEVERITIES.index(least)


# ---------------------------------------------------------------- comments


def _without_silenced(
    findings: Iterable[Finding], ignores: Mapping[str, Sequence[Ignore]]
) -> tuple[list[Finding], list[Finding]]:
    """The findings that no comment silences, and what is to be said of the comments themselves."""
    comments = {
        (file, ignore.covers, ignore.rule): ignore
        for file, found in ignores.items()
        for ignore in found
        if ignore.reason and ignore.rule in RULES
    }
    used: set[tuple[str, int, str]] = set()
    kept = []
    for finding in findings:
        key = (finding.problem.file, finding.problem.line, finding.id)
        if key in comments:
            used.add(key)
        else:
            kept.append(finding)
    about = [
        _about_comment(file, ignore)
        for file, found in ignores.items()
        for ignore in found
        if (file, ignore.covers, ignore.rule) not in used
    ]
    return kept, about


def _about_comment(file: str, ignore: Ignore) -> Finding:
    """Why a comment silences nothing."""
    if not ignore.rule:
        rule, words, near = IGNORED_UNKNOWN_RULE, "reads # lint: ignore RULE reason, and nothing else", ""
    elif ignore.rule not in RULES:
        rule, words, near = IGNORED_UNKNOWN_RULE, f"no rule is called {ignore.rule[:60]}", nearest(ignore.rule, RULES)
    elif not ignore.reason:
        rule, words, near = IGNORED_WITHOUT_REASON, f"does not say why {ignore.rule} is no matter here", ""
    else:
        rule, words, near = IGNORED_NOTHING, f"{ignore.rule} has no finding on line {ignore.covers}", ""
    return Finding(rule.id, rule.severity, Problem(file, ignore.line, (), words, near), rule.fix)
