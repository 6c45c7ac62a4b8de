"""What a change of the policies means: who gains and who loses which scopes, by which rule. Pure.

Compares effects, not texts: rules that were moved, renamed or written otherwise are no change. Only rules of the same
service account and issuer are compared with each other, so that a large policy costs little more than to look at it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from gateway.model import ClaimPath, Decision, Entitlement, TrustedIssuer
from gateway.policy.conditions import Like, Match, scalar_key
from gateway.policy.documents import duration_text
from gateway.policy.generation import Generation, Resource, ServiceAccount, TestCase, TrustRule
from gateway.policy.implication import Demands, admits_everybody, demands, implies, is_disjoint
from gateway.policy.policy_tests import differences, outcome, play
from gateway.policy.problems import Problem
from gateway.policy.reach import Granted, granted, who_in_words
from gateway.policy.setting_changes import (
    About,
    Direction,
    SettingChange,
    account_changes,
    credential_changes,
    guardrail_changes,
    issuer_changes,
    resource_changes,
)
from gateway.policy.wording import conditions_in_words, listed, seen_in_words

MAX_COMPARISONS = 500_000
"""How many pairs of rules are looked at to tell what is wider or narrower. Beyond it every rule that is written
otherwise is told as a gain and a loss: too much is told then, never too little."""
MAX_ORDERED_RULES = 200
"""Of service accounts with more rules that changed, no change of their order is told in detail."""
MAX_AMBIGUITIES_SOUGHT = 1000

_CREDENTIALS = "a client with a credential of its own"

_Scopes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AccessChange:
    """Who gains or loses scopes as one service account, by one trust rule or with credentials of its own."""

    direction: Literal["gain", "loss"]
    service_account: str
    access: tuple[Granted, ...]
    """The scopes gained or lost. Empty where only the identity is: its rules give nothing."""
    place: Problem
    """Where the rule stands, in the new files of a gain and in the old ones of a loss: a problem without words."""
    rule: str | None = None
    """The trust rule's name; None for credentials."""
    who: TrustRule | None = field(default=None, compare=False, repr=False)
    """A rule that admits exactly those who gain or lose, as far as can be told."""
    is_identity: bool = False
    """Whether they could not become the service account before at all, or cannot any more."""
    everybody: bool = False
    """Whether that is everybody at the issuer."""
    compared: str = ""
    """How the rule compares with those on the other side: ``wider than main``."""

    @property
    def issuer(self) -> str | None:
        """Whose workloads they are; None for clients."""
        return self.who.issuer if self.who is not None else None

    @property
    def conditions(self) -> tuple[str, ...]:
        """What their tokens show, in words."""
        return tuple(conditions_in_words(self.who)) if self.who is not None else ()

    @property
    def sentence(self) -> str:
        """``ref is refs/heads/main of issuer github may become web-deployer: gains deploy:write at deploy-api``."""
        who = who_in_words(self.issuer, self.conditions, everybody=self.everybody) if self.issuer else _CREDENTIALS
        access = "; ".join(one.in_words() for one in self.access)
        if not self.is_identity:
            return f"{who}, as {self.service_account}, {'gains' if self.direction == 'gain' else 'loses'} {access}"
        if self.direction == "gain":
            return f"{who} may become {self.service_account}: gains {access or 'no scope'}"
        return f"{who} may no longer become {self.service_account}: loses {access or 'no scope'}"


@dataclass(frozen=True, slots=True)
class TestChange:
    """A test that comes out otherwise. ``before`` and ``after`` are what comes out, in words."""

    __test__ = False  # pytest collects what is called Test

    service_account: str
    name: str
    before: str
    after: str
    passes_before: bool
    passes_after: bool
    of: Literal["old", "new", "both"]
    """Whose files it stands in."""
    place: Problem


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """All changes of effect, the most dangerous first, in an order that depends on the policies alone."""

    access: tuple[AccessChange, ...]
    settings: tuple[SettingChange, ...]
    tests: tuple[TestChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has another effect than before."""
        return not (self.access or self.settings or self.tests)

    def totals(self) -> dict[tuple[str, str, str], int]:
        """How many service accounts gain (or lose) each scope: from direction, resource and scope."""
        seen = {
            (change.direction, one.resource, scope, change.service_account)
            for change in self.access
            for one in change.access
            for scope in one.scopes
        }
        return dict(sorted(Counter(key[:3] for key in seen).items()))


def diff(old: Generation, new: Generation, *, folders: tuple[str, str] = ("", "")) -> PolicyDiff:
    """What changes for callers when ``new`` takes the place of ``old``.

    ``folders`` are those that the files of the two stand in, so that key files are compared by their names there. Tests
    are compared where the generations were loaded with them (``keep_tests``).
    """
    return _Comparison(old, new, folders).result()


# ---------------------------------------------------------------- ways


class _Way(NamedTuple):
    """The rules of one service account that ask the same, in the order of the file, as one."""

    rules: tuple[TrustRule, ...]
    scopes: Mapping[str, frozenset[str]]

    @property
    def rule(self) -> TrustRule:
        return self.rules[0]

    def granting(self, resource: str, scope: str | None = None) -> TrustRule:
        """The rule that is asked first for a resource, or the first that gives a scope there."""
        return next(rule for rule in self.rules if resource in rule.grants and scope in {None, *rule.grants[resource]})

    def answers(self, resource: str) -> list[frozenset[str]]:
        """What each rule gives at a resource, without those that give no more than one before them."""
        found: list[frozenset[str]] = []
        for rule in self.rules:
            given = frozenset(rule.grants.get(resource, ()))
            if given and not any(given <= before for before in found):
                found.append(given)
        return found


_Ways = Mapping[Demands, _Way]
_NO_WAYS: _Ways = {}


def _ways(rules: Iterable[TrustRule]) -> dict[Demands, _Way]:
    found: dict[Demands, list[TrustRule]] = {}
    for rule in rules:
        found.setdefault(demands(rule), []).append(rule)
    return {asked: _Way(tuple(alike), _united(alike)) for asked, alike in found.items()}


def _united(rules: Iterable[TrustRule]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for rule in rules:
        for resource, scopes in rule.grants.items():
            found[resource] = found.get(resource, frozenset()) | frozenset(scopes)
    return found


def _minus(scopes: Mapping[str, frozenset[str]], ways: Iterable[_Way]) -> dict[str, frozenset[str]]:
    """Scopes without those that the ways give, too."""
    left = dict(scopes)
    for way in ways:
        for resource, given in way.scopes.items():
            if resource in left:
                left[resource] -= given
    return {resource: rest for resource, rest in left.items() if rest}


def _is_alike(one: TrustRule, other: TrustRule) -> bool:
    """Whether two rules are the same but for their name and place, as they are written. Fast: most rules are."""
    return (
        one.issuer == other.issuer
        and one.match == other.match
        and one.like == other.like
        and (one.when.source if one.when else None) == (other.when.source if other.when else None)
        and _gives_alike(one, other)
    )


def _gives_alike(one: TrustRule, other: TrustRule) -> bool:
    return (
        one.grants == other.grants
        and one.token_lifetime_seconds == other.token_lifetime_seconds
        and (one.token_claims is other.token_claims or _claim_sources(one) == _claim_sources(other))
    )


def _claim_sources(rule: TrustRule) -> dict[str, str]:
    return {mapped.name: mapped.source for mapped in rule.token_claims}


# ---------------------------------------------------------------- the comparison


class _Comparison:
    """One comparison: what was found, and how much may still be looked at."""

    def __init__(self, old: Generation, new: Generation, folders: tuple[str, str]) -> None:
        self._old = old
        self._new = new
        self._folders = folders
        self._issuer_names = _renamed_issuers(old, new, folders)
        self._resource_names = _renamed_resources(old.resources, new.resources)
        self._old_resource_names = {new_name: old_name for old_name, new_name in self._resource_names.items()}
        self._comparisons_left = MAX_COMPARISONS
        self._access: list[AccessChange] = []
        self._settings: list[SettingChange] = []
        self._unsteady_issuers: frozenset[str] = frozenset()
        self._touched: set[str] = set()
        """Accounts of which anything changed, whatever it was."""
        self._by_role: Counter[tuple[str, Direction, str, str]] = Counter()
        """How many accounts gain or lose a scope by a role: role, direction, resource, scope."""

    def result(self) -> PolicyDiff:
        self._settings += issuer_changes(self._old, self._new, self._issuer_names, self._folders)
        self._settings += guardrail_changes(self._old, self._new, self._issuer_names)
        self._settings += resource_changes(self._old, self._new, self._resource_names)
        self._unsteady_issuers = _unsteady_issuers(self._settings, (self._old, self._new))
        for name in sorted(self._old.service_accounts.keys() | self._new.service_accounts.keys()):
            self._compare_accounts(self._old.service_accounts.get(name), self._new.service_accounts.get(name))
        self._settings += self._role_changes()
        self._settings += self._ambiguities()
        return PolicyDiff(
            access=tuple(sorted(self._access, key=_access_order)),
            settings=tuple(sorted(self._settings, key=_setting_order)),
            tests=tuple(self._test_changes()),
        )

    # ------------------------------------------------------------ service accounts

    def _compare_accounts(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if old is not None:
            old = self._translated(old)
        if old is not None and new is not None and _is_unchanged(old, new):
            return
        account = new or old
        assert account is not None
        self._touched.add(account.name)
        before, after = (_by_issuer(one.rules) if one is not None else {} for one in (old, new))
        found = len(self._access)
        for issuer in sorted(before.keys() | after.keys()):
            self._compare_rules(old, new, before.get(issuer, ()), after.get(issuer, ()))
        self._compare_clients(old, new, self._access[found:])
        if old is not None and new is not None:
            self._settings += account_changes(old, new, self._folders)
            self._count_roles(old, new)
        else:
            self._settings += credential_changes(old, new, self._folders)

    def _compare_rules(
        self,
        old_account: ServiceAccount | None,
        new_account: ServiceAccount | None,
        old_rules: Sequence[TrustRule],
        new_rules: Sequence[TrustRule],
    ) -> None:
        """The rules of one service account and issuer."""
        found = len(self._access)
        old, new = _ways(old_rules), _ways(new_rules)
        if new_account is not None:
            for asked, way in new.items():
                self._compare_way("gain", new_account, asked, way, old)
        if old_account is not None:
            for asked, way in old.items():
                self._compare_way("loss", old_account, asked, way, new)
        if new_account is not None and old_account is not None:
            for asked, way in new.items():
                self._compare_what_tokens_are(new_account, way, old.get(asked) or self._counterpart(asked, way, old))
            self._settings += self._order_changes(new_account, old, new, self._access[found:])

    def _compare_way(
        self,
        direction: Literal["gain", "loss"],
        account: ServiceAccount,
        asked: Demands,
        way: _Way,
        others: _Ways,
    ) -> None:
        """Adds what whoever goes this way gets here and not on the other side."""
        same = others.get(asked)
        if same is not None and not _minus(way.scopes, [same]):
            return
        wider = [*([same] if same is not None else []), *self._wider(way, others)]
        if wider:
            self._add(direction, account, way, way.rule, wider, others)
            return
        for who, already in self._exactly(way, asked, others):
            self._add(direction, account, way, who, already, others)

    def _add(
        self,
        direction: Literal["gain", "loss"],
        account: ServiceAccount,
        way: _Way,
        who: TrustRule,
        there: Sequence[_Way],
        others: _Ways,
    ) -> None:
        """Adds what some of those who go a way get by it, and not by those on the other side that they go ``there``."""
        rest = _minus(way.scopes, there)
        if there and not rest:
            return
        generation = self._new if direction == "gain" else self._old
        self._access.append(
            AccessChange(
                direction=direction,
                service_account=account.name,
                access=self._granted(generation, account, way, rest),
                place=account.place.problem(("trust", way.rule.position), ""),
                rule=next((rule.name for rule in way.rules if not rest or rest.keys() & rule.grants.keys()), None),
                who=who,
                is_identity=not there,
                everybody=admits_everybody(who, self._issuer(generation, who.issuer)),
                compared=self._compared(direction, way, others) if not there else "",
            )
        )

    def _granted(
        self, generation: Generation, account: ServiceAccount, way: _Way, rest: Mapping[str, frozenset[str]]
    ) -> tuple[Granted, ...]:
        found: list[Granted] = []
        for resource, scopes in rest.items():
            own = self._name_in(generation, resource)
            ordered = {own: tuple(one for one in generation.resources[own].scopes if one in scopes)}
            found += granted(generation, account, ordered, way.granting(resource).token_lifetime_seconds)
        return tuple(found)

    def _exactly(self, way: _Way, asked: Demands, others: _Ways) -> list[tuple[TrustRule, list[_Way]]]:
        """Those who go a way that is not there on the other side, by what they go there instead.

        All alike, and nothing, but where a list of one on the other side grew into it: then what came into the list is
        apart from what was in it.
        """
        for other in self._siblings(asked, others):
            came = _with_values(way.rule, other.rule, shared=False)
            stayed = _with_values(way.rule, other.rule, shared=True)
            if came is not None and stayed is not None:
                return [(came, []), (stayed, [other])]
        return [(way.rule, [])]

    def _compared(self, direction: Literal["gain", "loss"], way: _Way, others: _Ways) -> str:
        narrower = [other.rule.name for other in self._narrower(way, others)]
        if not narrower:
            return ""
        return f"{'widens' if direction == 'gain' else 'what remains of it:'} {listed(narrower, 3)}"

    def _counterpart(self, asked: Demands, way: _Way, others: _Ways) -> _Way | None:
        """What a way that was written otherwise was before: one that admits all of the same workloads, or some."""
        found = chain(self._wider(way, others), self._narrower(way, others), self._siblings(asked, others))
        return next(found, None)

    def _wider(self, way: _Way, others: _Ways) -> Iterator[_Way]:
        return (other for _, other in self._affordable(others) if implies(way.rule, other.rule))

    def _narrower(self, way: _Way, others: _Ways) -> Iterator[_Way]:
        return (other for _, other in self._affordable(others) if implies(other.rule, way.rule))

    def _siblings(self, asked: Demands, others: _Ways) -> Iterator[_Way]:
        """Ways that ask the same but for the values in one list."""
        return (other for there, other in self._affordable(others) if _differ_in_one_list(asked, there))

    def _affordable(self, others: _Ways) -> Iterator[tuple[Demands, _Way]]:
        """The ways, as long as there are comparisons left."""
        for asked, other in others.items():
            if self._comparisons_left <= 0:
                return
            self._comparisons_left -= 1
            yield asked, other

    # ------------------------------------------------------------ what tokens are

    def _compare_what_tokens_are(self, account: ServiceAccount, way: _Way, before: _Way | None) -> None:
        if before is None:
            return
        found: list[SettingChange] = []
        pairs: dict[tuple[TrustRule, TrustRule], None] = {(before.rule, way.rule): None}
        for resource in way.scopes:
            if resource not in before.scopes:
                continue
            answering = dict.fromkeys(_answering(way, before, resource))
            for old, new in answering:
                found += self._lifetime_changes(account, old, new, resource)
            pairs |= answering
            if way.scopes[resource] == before.scopes[resource] and way.answers(resource) != before.answers(resource):
                named = listed([rule.name for rule in way.rules if resource in rule.grants], 3)
                words = f"what {named} give at {resource} is given together otherwise"
                place = account.place.problem(("trust", way.granting(resource).position), "")
                more = "it counts where scope is left out, or several are asked for"
                found.append(_of_account("order", account, "other", f"{words}: {more}", place))
        for old, new in pairs:
            found += _claim_changes(account, old, new)
        self._settings += dict.fromkeys(found)

    def _lifetime_changes(
        self, account: ServiceAccount, old_rule: TrustRule, rule: TrustRule, resource: str
    ) -> Iterator[SettingChange]:
        old, new = old_rule.token_lifetime_seconds, rule.token_lifetime_seconds
        if old == new:  # what the resource itself allows is told of the resource
            return
        was = _least(old, self._old_resource(resource).token_lifetime_seconds)
        is_now = _least(new, self._new.resources[resource].token_lifetime_seconds)
        if was != is_now:
            words = (
                f"tokens for {resource} by rule {rule.name} live {duration_text(is_now)} instead of "
                f"{duration_text(was)}"
            )
            place = account.place.problem(("trust", rule.position), "")
            yield _of_account("lifetime", account, "wider" if is_now > was else "narrower", words, place)

    def _old_resource(self, new_name: str) -> Resource:
        return self._old.resources[self._name_in(self._old, new_name)]

    def _order_changes(
        self, account: ServiceAccount, old: _Ways, new: _Ways, told_of: Sequence[AccessChange]
    ) -> Iterator[SettingChange]:
        """Whoever fulfils several rules and leaves out scope gets what the first of them gives."""
        was, is_now = list(old), list(new)
        if was == is_now:
            return
        place = account.place.problem(("trust",), "")
        if max(len(was), len(is_now)) > MAX_ORDERED_RULES:
            yield _of_account("order", account, "other", "its rules have another order", place)
            return
        ranks = {asked: rank for rank, asked in enumerate(was)}
        gone = {old[asked].rule.name: asked for asked in was if asked not in new}
        # One that took the place of another, and was told of as a gain here and a loss there, needs no more words.
        told = {change.rule for change in told_of if change.direction == "gain"}
        told &= {change.rule for change in told_of if change.direction == "loss"}
        names = {asked: new[asked].rule.name for asked in is_now}
        stands_for = {asked: gone[name] for asked, name in names.items() if name in gone and name in told}
        for position, asked in enumerate(is_now):
            rank = ranks.get(asked, ranks.get(stands_for.get(asked, asked)))
            after = [
                new[other].rule
                for other in is_now[position + 1 :]
                if other in ranks and not (rank is not None and rank < ranks[other])
            ]
            if felt := [rule.name for rule in after if self._is_order_felt(new[asked].rule, rule)]:
                words = (
                    f"rule {new[asked].rule.name} comes before {listed(felt, 3)} now: it counts where scope is left out"
                )
                yield _of_account("order", account, "other", words, place)
        for asked in gone.values():
            if asked in stands_for.values():
                continue
            after = [new[other].rule for other in was[ranks[asked] + 1 :] if other in new]
            if felt := [rule.name for rule in after if self._is_order_felt(old[asked].rule, rule)]:
                words = f"rule {old[asked].rule.name} does not come before {listed(felt, 3)} any more"
                yield _of_account("order", account, "other", f"{words}: that counted where scope was left out", place)

    def _is_order_felt(self, first: TrustRule, second: TrustRule) -> bool:
        return not _gives_alike(first, second) and not is_disjoint(first, second)

    # ------------------------------------------------------------ clients

    def _compare_clients(
        self, old: ServiceAccount | None, new: ServiceAccount | None, by_rules: Sequence[AccessChange]
    ) -> None:
        """What a client gets that authenticates as the account by itself: all of its access.

        Told of accounts with credentials in the policies, and of what no rule tells: any account may have secrets in
        the shared state.
        """
        self._compare_client("gain", new, old, by_rules)
        self._compare_client("loss", old, new, by_rules)
        if old is not None and new is not None and (old.registered or new.registered):
            self._compare_client_tokens(old, new)

    def _compare_client(
        self,
        direction: Literal["gain", "loss"],
        here: ServiceAccount | None,
        there: ServiceAccount | None,
        by_rules: Sequence[AccessChange],
    ) -> None:
        if here is None or here.template is not None:
            return
        was_client = there is not None and (there.registered is not None or here.registered is None)
        had = there.access if there is not None and was_client else {}
        known = {} if here.registered is not None else self._told(direction, by_rules)
        rest = {}
        for resource, scopes in here.access.items():
            left = frozenset(scopes) - set(had.get(resource, ())) - known.get(resource, frozenset())
            if left:
                rest[resource] = left
        if not rest:
            return
        generation = self._new if direction == "gain" else self._old
        scopes_there = {}
        for resource, some in rest.items():
            own = self._name_in(generation, resource)
            scopes_there[own] = tuple(one for one in generation.resources[own].scopes if one in some)
        self._access.append(
            AccessChange(
                direction=direction,
                service_account=here.name,
                access=granted(generation, here, scopes_there, here.token_lifetime_seconds),
                place=here.place.problem((), ""),
                is_identity=not was_client,
            )
        )

    def _told(self, direction: Literal["gain", "loss"], changes: Iterable[AccessChange]) -> dict[str, frozenset[str]]:
        """The scopes of these changes, by the new names of their resources."""
        found: dict[str, frozenset[str]] = {}
        for one in chain.from_iterable(change.access for change in changes if change.direction == direction):
            resource = self._resource_names.get(one.resource, one.resource) if direction == "loss" else one.resource
            found[resource] = found.get(resource, frozenset()) | frozenset(one.scopes)
        return found

    def _compare_client_tokens(self, old: ServiceAccount, new: ServiceAccount) -> None:
        place = new.place.problem((), "")
        for resource in new.access:
            if resource not in old.access or old.token_lifetime_seconds == new.token_lifetime_seconds:
                continue
            was = _least(old.token_lifetime_seconds, self._old_resource(resource).token_lifetime_seconds)
            is_now = _least(new.token_lifetime_seconds, self._new.resources[resource].token_lifetime_seconds)
            if was != is_now:
                words = (
                    f"tokens for {resource} by its own credentials live {duration_text(is_now)} instead of "
                    f"{duration_text(was)}"
                )
                self._settings.append(
                    _of_account("lifetime", new, "wider" if is_now > was else "narrower", words, place)
                )
        for name in sorted(old.constant_claims.keys() | new.constant_claims.keys()):
            one, other = old.constant_claims.get(name), new.constant_claims.get(name)
            if (type(one), one) != (type(other), other):
                words = f"is {seen_in_words(other)} instead of {seen_in_words(one)}"
                words = f"the claim {name} of tokens by its own credentials {words}"
                self._settings.append(_of_account("token_claims", new, "other", words, place))

    # ------------------------------------------------------------ what concerns many

    def _count_roles(self, old: ServiceAccount, new: ServiceAccount) -> None:
        """Counts an account for each of its roles that gives it a scope which it did not have, or had."""
        sides: tuple[tuple[Direction, ServiceAccount, ServiceAccount, Generation], ...] = (
            ("wider", new, old, self._new),
            ("narrower", old, new, self._old),
        )
        for direction, here, there, generation in sides:
            for role in here.roles:
                for name, scopes in generation.roles[role].items():
                    resource = self._resource_names.get(name, name) if generation is self._old else name
                    for scope in scopes:
                        if scope not in there.access.get(resource, ()) and role in there.roles:
                            self._by_role[role, direction, name, scope] += 1

    def _role_changes(self) -> Iterator[SettingChange]:
        grouped: dict[tuple[str, Direction, str, int], list[str]] = {}
        for (role, direction, resource, scope), count in self._by_role.items():
            grouped.setdefault((role, direction, resource, count), []).append(scope)
        for (role, direction, resource, count), scopes in grouped.items():
            generation = self._new if direction == "wider" else self._old
            given = "gives" if direction == "wider" else "no longer gives"
            who = "one service account" if count == 1 else f"{count:,} service accounts"
            words = f"{given} {who} {listed(sorted(scopes))} at {resource}"
            yield SettingChange("role", role, direction, words, place=generation.role_places[role].problem((), ""))

    def _ambiguities(self) -> Iterator[SettingChange]:
        """Workloads that were one service account alone, and may become a second one."""
        gained = (one for one in self._access if one.direction == "gain" and one.is_identity and one.who is not None)
        for change in islice(gained, MAX_AMBIGUITIES_SOUGHT):
            assert change.who is not None
            name, sample = change.service_account, _sample_claims(change.who)
            before = _accounts_of(self._old, self._name_of_issuer(self._old, change.who.issuer), sample)
            after = _accounts_of(self._new, change.who.issuer, sample)
            if len(before) == 1 and name not in before and before | {name} <= after:
                words = f"workloads that may become it are {min(before)}, too: whoever leaves out client_id is refused"
                account = self._new.service_accounts[name]
                yield _of_account("service_account", account, "narrower", words, change.place)

    # ------------------------------------------------------------ tests

    def _test_changes(self) -> Iterator[TestChange]:
        before = {(case.service_account, case.test.name): case for case in self._old.tests}
        in_both = set()
        for case in self._new.tests:
            key = (case.service_account, case.test.name)
            same = key in before and before[key].test == case.test and before[key].sample == case.sample
            if same:
                in_both.add(key)
            yield from self._test_change(case, "both" if same else "new")
        for case in self._old.tests:
            if (case.service_account, case.test.name) not in in_both:
                yield from self._test_change(case, "old")

    def _test_change(self, case: TestCase, of: Literal["old", "new", "both"]) -> Iterator[TestChange]:
        if not self._may_come_out_otherwise(case):
            return
        own = self._old if of == "old" else self._new
        was, is_now = (self._played(generation, case, own) for generation in (self._old, self._new))
        if self._is_same_outcome(was, is_now):
            return
        yield TestChange(
            service_account=case.service_account,
            name=case.test.name,
            before=_outcome(was, case),
            after=_outcome(is_now, case),
            passes_before=was is not None and not differences(case.test, was),
            passes_after=is_now is not None and not differences(case.test, is_now),
            of=of,
            place=case.place,
        )

    def _may_come_out_otherwise(self, case: TestCase) -> bool:
        """Whether anything changed that the test touches. Where nothing did, it is not played: there may be many."""
        is_written = (
            case.service_account in self._new.service_accounts and case.service_account in self._old.service_accounts
        )
        return not is_written or case.service_account in self._touched or case.test.issuer in self._unsteady_issuers

    def _played(self, generation: Generation, case: TestCase, own: Generation) -> Decision | None:
        """The decision; None where the issuer of the test is not there."""
        name = case.test.issuer
        if generation is not own:
            name = self._issuer_names.get(name, name) if own is self._old else self._name_of_issuer(self._old, name)
        if name not in generation.issuers_by_name:
            return None
        if name != case.test.issuer:
            case = replace(case, test=case.test.model_copy(update={"issuer": name}))
        return play(generation, case)

    def _is_same_outcome(self, one: Decision | None, other: Decision | None) -> bool:
        if one is None or other is None:
            return one is other
        was, is_now = one.entitlement, other.entitlement
        if was is None or is_now is None:
            return was is is_now and one.reason == other.reason
        return _what_it_is(was) == _what_it_is(is_now)

    # ------------------------------------------------------------ names

    def _issuer(self, generation: Generation, name: str) -> TrustedIssuer | None:
        return generation.issuers_by_name.get(self._name_of_issuer(generation, name))

    def _name_of_issuer(self, generation: Generation, name: str) -> str:
        """What one of the two generations calls an issuer of the new one."""
        if generation is self._new:
            return name
        return next((before for before, after in self._issuer_names.items() if after == name), name)

    def _name_in(self, generation: Generation, resource: str) -> str:
        """What one of the two generations calls a resource of the new one."""
        return self._old_resource_names.get(resource, resource) if generation is self._old else resource

    def _translated(self, account: ServiceAccount) -> ServiceAccount:
        """An account of the old files in the names of the new ones."""
        if not self._issuer_names and not self._resource_names:
            return account
        rules = tuple(self._translated_rule(rule) for rule in account.rules)
        return replace(account, access=self._translated_scopes(account.access), rules=rules)

    def _translated_rule(self, rule: TrustRule) -> TrustRule:
        issuer = self._issuer_names.get(rule.issuer, rule.issuer)
        if rule.when is not None and "issuer" in rule.when.source:
            issuer = rule.issuer  # what it comes to depends on the name
        return replace(rule, issuer=issuer, grants=self._translated_scopes(rule.grants))

    def _translated_scopes(self, scopes: _Scopes) -> _Scopes:
        return {self._resource_names.get(name, name): some for name, some in scopes.items()}


def _unsteady_issuers(changes: Iterable[SettingChange], generations: Iterable[Generation]) -> frozenset[str]:
    """The issuers whose workloads may be answered otherwise: of any change to guardrails or resources, all."""
    every = frozenset(chain.from_iterable(generation.issuers_by_name for generation in generations))
    found = set()
    for change in changes:
        if change.about != "issuer":
            return every
        found.add(change.name)
    return frozenset(found)


def _accounts_of(generation: Generation, issuer: str, claims: Mapping[str, Any]) -> set[str]:
    """The service accounts that workloads with these claims may become by rules of an issuer, templates as one."""
    index = generation.index.get(issuer)
    return {rule.service_account for rule in index.candidates(claims) if rule.admits(claims)} if index else set()


def _is_unchanged(old: ServiceAccount, new: ServiceAccount) -> bool:
    return (
        len(old.rules) == len(new.rules)
        and old.access == new.access
        and old.token_lifetime_seconds == new.token_lifetime_seconds
        and old.rate_limit == new.rate_limit
        and old.credentials == new.credentials
        and old.registered == new.registered
        and old.template == new.template
        and old.constant_claims == new.constant_claims
        and all(map(_is_alike, old.rules, new.rules))
    )


def _by_issuer(rules: Iterable[TrustRule]) -> dict[str, list[TrustRule]]:
    found: dict[str, list[TrustRule]] = {}
    for rule in rules:
        found.setdefault(rule.issuer, []).append(rule)
    return found


def _least(seconds: int | None, most: int) -> int:
    return most if seconds is None else min(seconds, most)


def _answering(way: _Way, before: _Way, resource: str) -> Iterator[tuple[TrustRule, TrustRule]]:
    """The rules that answer on either side: where scope is left out, and for each scope that both give."""
    yield before.granting(resource), way.granting(resource)
    if len(way.rules) > 1 or len(before.rules) > 1:
        for scope in sorted(way.scopes[resource] & before.scopes[resource]):
            yield before.granting(resource, scope), way.granting(resource, scope)


def _claim_changes(account: ServiceAccount, old_rule: TrustRule, rule: TrustRule) -> Iterator[SettingChange]:
    old, new = _claim_sources(old_rule), _claim_sources(rule)
    place = account.place.problem(("trust", rule.position), "")
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            words = f"{_claim_change(name, old.get(name), new.get(name))} by rule {rule.name}"
            yield _of_account("token_claims", account, "other", words, place)


def _claim_change(name: str, old: str | None, new: str | None) -> str:
    if old is None:
        return f"tokens have the claim {name}: {new}"
    if new is None:
        return f"tokens have the claim {name} no longer"
    return f"the claim {name} of tokens is {new} instead of {old}"


def _of_account(
    about: About, account: ServiceAccount, direction: Direction, words: str, place: Problem
) -> SettingChange:
    return SettingChange(about, account.name, direction, words, place=place)


# ---------------------------------------------------------------- who exactly


def _differ_in_one_list(one: Demands, other: Demands) -> bool:
    """Whether two rules ask the same but of one claim, of which both want some values, or both some globs."""
    if one.when != other.when:
        return False
    match, like = one.match ^ other.match, one.like ^ other.like
    changed: list[tuple[ClaimPath, Any]] = [*match, *like]
    return len(changed) == 2 and (not match or not like) and changed[0][0] == changed[1][0]


def _with_values(rule: TrustRule, other: TrustRule, *, shared: bool) -> TrustRule | None:
    """The rule for those values alone that the other has, too, or that it has not; None where there are none."""
    there = demands(other)
    match = tuple(
        one if (one.path, frozenset(one.keys)) in there.match else _match_of(one, there, shared=shared)
        for one in rule.match
    )
    like = tuple(
        one if (one.path, frozenset(one.wanted)) in there.like else _like_of(one, there, shared=shared)
        for one in rule.like
    )
    if not all(one.wanted for one in match) or not all(one.wanted for one in like):
        return None
    return replace(rule, match=match, like=like)


def _match_of(match: Match, there: Demands, *, shared: bool) -> Match:
    known = {key for path, keys in there.match if path == match.path for key in keys}
    left = [value for value in match.wanted if (scalar_key(value) in known) is shared]
    return Match(match.path, tuple(key for key in map(scalar_key, left) if key is not None), tuple(left))


def _like_of(like: Like, there: Demands, *, shared: bool) -> Like:
    known = {glob for path, globs in there.like if path == like.path for glob in globs}
    left = [pair for pair in zip(like.globs, like.wanted, strict=True) if (pair[1] in known) is shared]
    return Like(like.path, tuple(glob for glob, _ in left), tuple(text for _, text in left))


def _sample_claims(rule: TrustRule) -> dict[str, Any]:
    """Claims of a workload that match and like of the rule speak of."""
    claims: dict[str, Any] = {}
    values = [(match.path, match.wanted[0]) for match in rule.match]
    values += [(like.path, like.wanted[0].replace("*", "x")) for like in rule.like]
    for path, value in values:
        holder = claims
        for name in path[:-1]:
            below = holder.setdefault(name, {})
            holder = below if isinstance(below, dict) else {}
        holder.setdefault(path[-1], value)
    return claims


# ---------------------------------------------------------------- names


def _renamed_issuers(old: Generation, new: Generation, folders: tuple[str, str]) -> dict[str, str]:
    """From old names to new ones: an issuer that came has the URL and the keys of one that went."""
    gone = {
        _identity(issuer, folders[0]): name
        for name, issuer in old.issuers_by_name.items()
        if name not in new.issuers_by_name
    }
    found = {}
    for name, issuer in new.issuers_by_name.items():
        identity = _identity(issuer, folders[1])
        if name not in old.issuers_by_name and identity in gone:
            found[gone.pop(identity)] = name
    return found


def _identity(issuer: TrustedIssuer, folder: str) -> tuple[str, str]:
    keys = issuer.keys
    return issuer.url, keys.discovery_url or keys.jwks_uri or (keys.jwks_file or "").removeprefix(folder) or repr(
        keys.jwks
    )


def _renamed_resources(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> dict[str, str]:
    gone = {resource.identifier: name for name, resource in old.items() if name not in new}
    return {
        gone[resource.identifier]: name
        for name, resource in new.items()
        if name not in old and resource.identifier in gone
    }


# ---------------------------------------------------------------- order and words

_ABOUT_ORDER: tuple[About, ...] = (
    "issuer", "guardrail", "resource", "role", "service_account", "credentials", "lifetime", "token_claims", "order",
)  # fmt: skip


def _access_order(change: AccessChange) -> tuple[Any, ...]:
    return (
        not (change.everybody and change.direction == "gain"),
        change.direction != "gain",
        change.service_account,
        change.issuer is None,
        change.place.file,
        change.place.path,
    )


def _setting_order(change: SettingChange) -> tuple[Any, ...]:
    return not change.everybody, _ABOUT_ORDER.index(change.about), change.name, change.sentence


def _what_it_is(entitlement: Entitlement) -> tuple[Any, ...]:
    """What whoever asked ends up with, but for the names that the policies have for it."""
    claims = {name: (type(value), value) for name, value in entitlement.claims.items()}
    return entitlement.audience, frozenset(entitlement.scopes), entitlement.lifetime_seconds, claims


def _outcome(decision: Decision | None, case: TestCase) -> str:
    return outcome(decision) if decision is not None else f"no issuer is called {case.test.issuer}"
