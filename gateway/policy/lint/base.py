"""What a lint rule is, what it finds, and what it looks at: the policies, one issuer, one trust rule. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from gateway.model import ClaimPath, Preset, TrustedIssuer
from gateway.policy.cel import Condition
from gateway.policy.conditions import Like, Match, ScalarKey, scalar_key
from gateway.policy.generation import Generation, Guardrail, ServiceAccount, TrustRule
from gateway.policy.lint.facts import NOTHING, Facts, both, facts_of_conditions, facts_when, glob_of, with_equal_claims
from gateway.policy.lint.platforms import Choice, Platform, platform_of
from gateway.policy.lint.syntax import Call, Claim, Node, syntax_of, walk
from gateway.policy.lint.syntax import Literal as CelLiteral
from gateway.policy.lint.told_claims import told_by_others
from gateway.policy.problems import Path, Place, Problem, path_text
from gateway.policy.wording import shown

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From the worst down."""

_READING = frozenset({
    "read", "reader", "readonly", "list", "get", "view", "viewer", "show", "pull", "watch", "describe", "search",
    "query",
})  # fmt: skip
_WORD_ENDS = str.maketrans("./_-", "::::")


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a rule found: what is wrong, and where in the document. ``place`` names another document than
    the one that was looked at.
    """

    path: Path
    message: str
    place: Place | None = None


Seen = TypeVar("Seen")
Check = Callable[[Seen], Iterator[Remark]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LintRule:
    """One rule. ``why`` explains, ``fix`` says what to write instead; both are sentences for people.

    What it looks at is said by the checks that it has: each is called for everything of its kind.
    """

    id: str
    """Never renamed: files name it to silence it."""
    severity: Severity
    title: str
    why: str
    fix: str
    families: frozenset[str] = frozenset()
    """The families of platforms whose issuers and trust rules it looks at; empty for all."""
    of_policies: "Check[Policies] | None" = None
    of_issuer: "Check[IssuerView] | None" = None
    of_account: "Check[AccountView] | None" = None
    of_trust: "Check[TrustView] | None" = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found, and where. ``problem`` has file, line, path and words."""

    id: str
    severity: Severity
    problem: Problem
    fix: str


@dataclass(frozen=True, eq=False)
class Policies:
    """A generation, with what its issuers' platforms are."""

    generation: Generation
    presets: Mapping[str, Preset]
    is_reserved_audience: Callable[[str], bool]

    @cached_property
    def issuers(self) -> Mapping[str, "IssuerView"]:
        """Every issuer by its name."""
        return {issuer.name: IssuerView(self, issuer, platform_of(issuer)) for issuer in self.generation.issuers}

    def guardrails(self) -> Iterator[tuple[Guardrail, list["IssuerView"]]]:
        """Each guardrail once, with the issuers that it holds for."""
        found: dict[tuple[str, Place], tuple[Guardrail, list[IssuerView]]] = {}
        for name, guardrails in self.generation.guardrails.items():
            for guardrail in guardrails:
                _, issuers = found.setdefault((guardrail.name, guardrail.place), (guardrail, []))
                issuers.append(self.issuers[name])
        yield from found.values()

    @cached_property
    def _trees(self) -> dict[str, Node]:
        return {}

    def syntax(self, condition: Condition) -> Node:
        """The tree of a condition. Many rules have the same one: it is taken apart once."""
        if condition.source not in self._trees:
            self._trees[condition.source] = syntax_of(condition)
        return self._trees[condition.source]


@dataclass(frozen=True, eq=False)
class IssuerView:
    """An issuer, its platform, and what holds for all of its rules."""

    policies: Policies
    issuer: TrustedIssuer
    platform: Platform

    @property
    def place(self) -> Place:
        """Where its document stands."""
        return self.policies.generation.issuer_places[self.issuer.name]

    @cached_property
    def facts(self) -> Facts:
        """What its ``when`` and the guardrails make certain of all that get through."""
        generation, name = self.policies.generation, self.issuer.name
        condition = generation.issuer_conditions.get(name)
        certain = [facts_when(self.policies.syntax(condition), name, holds=True)] if condition is not None else []
        certain += [
            facts_when(self.policies.syntax(guardrail.deny_when), name, holds=False)
            for guardrail in generation.guardrails.get(name, ())
        ]
        return both(*certain)

    @property
    def rules(self) -> tuple[TrustRule, ...]:
        """The trust rules that name it."""
        index = self.policies.generation.index.get(self.issuer.name)
        if index is None:
            return ()
        found = {rule.ordinal: rule for _, bucket in index.buckets for filed in bucket.values() for rule in filed}
        found.update((rule.ordinal, rule) for rule in index.scan)
        return tuple(found[ordinal] for ordinal in sorted(found))

    def trust(self, rule: TrustRule) -> "TrustView":
        """A rule of this issuer, looked at."""
        account = self.policies.generation.service_accounts[rule.service_account]
        when = self.policies.syntax(rule.when) if rule.when is not None else None
        own = facts_of_conditions(rule.match, rule.like)
        if when is not None:
            own = both(own, facts_when(when, self.issuer.name, holds=True))
        facts = with_equal_claims(both(self.facts, own))
        return TrustView(self, account, rule, when, own, both(facts, told_by_others(self.platform.family, facts)))


@dataclass(frozen=True, slots=True, eq=False)
class AccountView:
    """A service account and its trust rules, looked at."""

    policies: Policies
    account: ServiceAccount
    trust: "tuple[TrustView, ...]"

    @property
    def place(self) -> Place:
        """Where its document stands."""
        return self.account.place


@dataclass(frozen=True, slots=True, eq=False)
class TrustView:
    """A trust rule, and what is certain of a workload that it admits."""

    issuer: IssuerView
    account: ServiceAccount
    rule: TrustRule
    when: Node | None
    own: Facts
    """What the rule alone makes certain, as it is written."""
    facts: Facts
    """The same with the issuer's ``when``, the guardrails, and what some claims tell of others."""

    @property
    def platform(self) -> Platform:
        """The platform whose tokens it is about."""
        return self.issuer.platform

    @property
    def place(self) -> Place:
        """Where its document stands."""
        return self.account.place

    @property
    def path(self) -> Path:
        """Where in the document it stands."""
        return ("trust", self.rule.position)

    @property
    def conditions(self) -> tuple[Match | Like, ...]:
        """``match`` and ``like`` of the rule."""
        return (*self.rule.match, *self.rule.like)

    def remark(self, message: str, claim: ClaimPath | None = None) -> Remark:
        """Something about the rule as a whole, or about what it says of a claim."""
        return Remark(self.path if claim is None else self.path_of(claim), message)

    def path_of(self, claim: ClaimPath) -> Path:
        """Where the rule speaks of a claim; the rule itself where it does not."""
        if any(match.path == claim for match in self.rule.match):
            return (*self.path, "match", *claim)
        if any(like.path == claim for like in self.rule.like):
            return (*self.path, "like", *claim)
        return (*self.path, "when") if self.mentions(claim) else self.path

    def mentions(self, claim: ClaimPath) -> bool:
        """Whether the rule has a condition on a claim, or on something within it."""
        return any(path[: len(claim)] == claim for path in self.rule.paths)

    def values(self, claim: ClaimPath) -> frozenset[ScalarKey] | None:
        """The values that the claim can have; None where that is no finite list, or it may be absent."""
        known = self.facts.get(claim, NOTHING)
        return known.possible if known.present else None

    def is_fixed(self, claim: ClaimPath) -> bool:
        """Whether the claim has one of certain values, or makes the name of the service account."""
        return bool(self.values(claim)) or claim in self.placeholders

    @property
    def placeholders(self) -> frozenset[ClaimPath]:
        """The claims that a template's name is made of: workloads with other values are other service accounts."""
        template = self.account.template
        return frozenset(path for _, path in template.placeholders) if template is not None else frozenset()

    def fixes(self, choice: Choice) -> bool:
        """Whether the claims of one alternative are all fixed by value."""
        return any(all(map(self.values, alternative)) for alternative in choice)

    def fixes_names_for(self, choice: Choice) -> bool:
        """The same, a name counting for the id that it stands for."""
        fixed = {of for name, of in self.platform.names.items() if self.values(name)}
        return any(all(claim in fixed or self.values(claim) for claim in alternative) for alternative in choice)

    def tells_apart(self, choice: Choice) -> bool:
        """The same, a claim counting as fixed where it goes into the service account's name."""
        fixed = {of for name, of in self.platform.names.items() if self.is_fixed(name)}
        return any(all(claim in fixed or self.is_fixed(claim) for claim in alternative) for alternative in choice)

    def is_only(self, claim: ClaimPath, value: str | int | bool) -> bool:
        """Whether the claim has this value and no other."""
        key = scalar_key(value)
        return key is not None and self.values(claim) == frozenset({key})

    def narrows(self, claim: ClaimPath) -> bool:
        """Whether the claim is fixed by value, or has to fit a glob that is not all stars."""
        known = self.facts.get(claim, NOTHING)
        return known.present and (
            bool(known.possible) or any(all(glob.strip("*") for glob in globs) for globs in known.globs)
        )

    @property
    def globs(self) -> Iterator[tuple[ClaimPath, str, Path]]:
        """Every glob of the rule with its claim and its place; those of ``startsWith`` and the like, too."""
        for like in self.rule.like:
            for glob in like.wanted:
                yield like.path, glob, (*self.path, "like", *like.path)
        for node in walk(self.when) if self.when is not None else ():
            match node:
                case Call("startsWith" | "endsWith" | "contains", (Claim(path), CelLiteral(str(text)))) if path:
                    yield path, glob_of(node.function, text)[0], (*self.path, "when")

    @property
    def writing(self) -> tuple[str, ...]:
        """The scopes that it gives which do more than read, as far as their names tell."""
        return tuple(scope for scopes in self.rule.grants.values() for scope in scopes if not _only_reads(scope))


def claim_text(path: ClaimPath) -> str:
    """A claim as people write it."""
    return path[0] if len(path) == 1 else path_text(path)


def choice_text(choice: Choice) -> str:
    """Alternatives in words: ``project_id, or ref and ref_type``."""
    return ", or ".join(" and ".join(map(claim_text, alternative)) for alternative in choice)


def key_text(key: ScalarKey) -> str:
    """A value of a condition in words."""
    return shown(key if isinstance(key, str) else key[0](key[1]))


def values_text(keys: frozenset[ScalarKey] | None, limit: int = 5) -> str:
    """Values in words, the first few of many."""
    texts = sorted(map(key_text, keys or ()))
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def _only_reads(scope: str) -> bool:
    return scope.lower().translate(_WORD_ENDS).rpartition(":")[2] in _READING
