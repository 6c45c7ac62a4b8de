"""Near misses: the small differences between a token and a policy that cost people a day, each told in one sentence.

A hint says where the policy stands and what to write there. It proposes a text only where that lets in nobody else
than whom the rule already meant; anything wider it warns of. Every proposed condition is tried on the claims before
it is shown. For operators only: it tells what the policy wants. Pure.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.model import Claims, TokenRequest, TrustedIssuer, Workload
from gateway.policy.cel import CelError, Condition, parse_condition
from gateway.policy.checks import differ_in_case
from gateway.policy.conditions import Like, Match, OneStar, claim_at, parse_glob, scalar_key
from gateway.policy.generation import Generation, ServiceAccount, TrustRule
from gateway.policy.problems import Path, Place, nearest, path_text
from gateway.policy.rewriting import Change, Scalar
from gateway.policy.wording import shown, type_in_words

HINTS: Mapping[str, str] = {
    "differs-in-case": "Upper and lower case differ, and nothing else.",
    "differs-in-trailing-slash": "One of the two ends with a slash.",
    "differs-in-blanks": "Blanks differ, and nothing else.",
    "differs-in-yml-or-yaml": "A workflow file is called `.yml` on one side and `.yaml` on the other.",
    "number-against-text": "The token has a number where the rule has text, or the reverse.",
    "boolean-against-text": "The token has true or false where the rule has text, or the reverse.",
    "list-against-text": "The token has a list that holds what the rule wants.",
    "github-immutable-subject": "GitHub's `sub` has ids in it (`repo:acme@1/web@2:...`) on one side only.",
    "github-environment-subject": "The job names an environment, so that GitHub's `sub` has no branch.",
    "github-branch-subject": "The job names no environment, so that GitHub's `sub` has the branch or the tag.",
    "github-pull-request-subject": "The job runs for a pull request.",
    "github-tag-subject": "GitHub's `sub` has a tag where the rule has a branch, or the reverse.",
    "glob-stops-at-separator": "`*` would have to cross a `/` or a `:`.",
    "moved-claim": "Another claim of the token has the value that the rule wants.",
    "another-issuer": "The rule, or the audience, is that of another Issuer document.",
    "unknown-issuer": "No Issuer document has the token's `iss`, and one is near to it.",
    "unknown-service-account": "No service account is called so, and one is called nearly so.",
    "unknown-resource": "No such resource can be asked for, and one is called nearly so.",
    "unknown-scope": "No such scope is granted, and one is called nearly so.",
}
"""Every hint by its id, with what it means. An id is a promise to scripts: it is never renamed."""

MAX_HINTS = 8
MAX_OPTIONS = 16
"""Of a longer list of wanted values, the first so many are looked at."""
MAX_VALUE_CHARACTERS = 1024
"""Beyond it nobody mistypes a value, but makes one."""
MAX_LITERALS = 8
MAX_CLAIMS_SEARCHED = 200

SAFE_EVENTS = frozenset({"push", "workflow_dispatch", "schedule", "release"})
"""GitHub's events that nobody sets off who could not write to the repository."""
_PLATFORMS_WITHOUT_CASE = frozenset({"github-actions", "gitlab-ci"})
"""Where two names that differ in case alone are never two owners."""
_WHO = frozenset({
    "sub", "repository", "repository_owner", "project_path", "namespace_path", "organization_slug", "arn", "azp",
    "client_id", "email", "google", "kubernetes.io",
})  # fmt: skip
"""Claims that say who is calling, beside those whose names end in ``_id``."""
_CHOSEN_BY_JOB = frozenset({"workflow", "head_ref", "base_ref", "actor", "actor_id", "user_login", "job", "title"})
"""Claims that whoever sets a job off can choose."""
_REFS = frozenset({"ref", "ref_path", "branch"})
_GITHUB = "github-actions"
_EXTENSION = re.compile(r"\.ya?ml(?=@|$)")
_IMMUTABLE = re.compile(r"repo:(?P<owner>[^/@:]+)@(?P<owner_id>[0-9]+)/(?P<name>[^/@:]+)@(?P<id>[0-9]+)(?=:|$)")
_SUBJECT = re.compile(
    r"(?P<repository>repo:[^/:*]+/[^/:*]+):"
    r"(?P<context>environment:.+|pull_request|ref:(?P<ref>refs/(?:heads|tags)/.+))",
    re.DOTALL,
)
_LITERAL = re.compile(r'"([^"\\\r\n]{1,256})"|\'([^\'\\\r\n]{1,256})\'')
_REVERSING = re.compile(r"[!?\\]|\bfalse\b")
"""What stands in a CEL condition that may hold because a text does not fit, or that hides where a text ends."""
_EQUALS_BEFORE, _EQUALS_BEHIND = re.compile(r"(?:==|\bin\s*\[[^][()]*)\s*$"), re.compile(r"\s*==")
_SAME_TOKEN = {
    _GITHUB: {"workflow_ref": "job_workflow_ref", "job_workflow_ref": "workflow_ref"},
    "gitlab-ci": {"ref": "ref_path"},
}
"""By platform, claims that are taken for each other: what a rule wants of the one is often what the other has."""


@dataclass(frozen=True, slots=True)
class Hint:
    """One near miss. ``sentence`` and ``warning`` are for people; ``place`` and ``path`` are where the policy says so.

    ``change`` is what to write there, and None where the policy is right or a change would not be safe. ``ask_for``
    are the parameters that a request should have had.
    """

    id: str
    sentence: str
    place: Place | None = None
    path: Path = ()
    change: Change | None = None
    warning: str = ""
    ask_for: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- a trust rule


def rule_hints(generation: Generation, account: ServiceAccount, rule: TrustRule, workload: Workload) -> list[Hint]:
    """The near misses of a rule that does not admit a workload, one for each condition at most.

    Where somebody else is calling than the rule is about, by a claim that is not even near, there is nothing to repair.
    """
    if rule.issuer != workload.issuer.name:
        hint = _another_issuer(generation, account, rule, workload)
        return [] if hint is None else [hint]
    found, unexplained = [], []
    for condition in _failing(rule, workload.claims):
        miss = _Miss(account, rule, condition, workload)
        hint = miss.hint()
        if hint is None:
            unexplained.append(condition)
        else:
            found.append(hint)
    if any(says_who_calls(condition.path[0]) for condition in unexplained):
        return []
    if rule.when is not None and not found and not unexplained:
        hint = condition_hint(rule.when, account.place, ("trust", rule.position, "when"), workload)
        return [] if hint is None else [hint]
    return found


def is_near(condition: Match | Like, claims: Claims) -> bool:
    """Whether a condition that does not hold would, but for a small difference in the text."""
    seen = claim_at(claims, condition.path)
    if type(seen) is list:
        return any(scalar_key(item) == scalar_key(wanted) for wanted in condition.wanted[:4] for item in seen[:16])
    if type(seen) not in {str, int, bool} or len(str(seen)) > MAX_VALUE_CHARACTERS:
        return False
    plain = _plain(str(seen))
    return any(_plain(str(wanted)) == plain for wanted in condition.wanted[:MAX_OPTIONS])


def says_who_calls(claim: str) -> bool:
    """Whether a claim tells whose workload it is, and not what it does."""
    return claim in _WHO or claim.endswith("_id")


def _plain(text: str) -> str:
    """A text without what people get wrong in it."""
    text = _EXTENSION.sub(".yml", _without_ids(text))
    subject = _SUBJECT.fullmatch(text)
    if subject is not None:
        text = subject["repository"]
    return "".join(text.split()).casefold().rstrip("/")


def _failing(rule: TrustRule, claims: Claims) -> Iterator[Match | Like]:
    conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
    return (condition for condition in conditions if not condition.holds(claims))


def _another_issuer(
    generation: Generation, account: ServiceAccount, rule: TrustRule, workload: Workload
) -> Hint | None:
    if not rule.admits(workload.claims):
        return None
    here, there = workload.issuer, generation.issuers_by_name.get(rule.issuer)
    same = ", which has the same url but other keys" if there is not None and there.url == here.url else ""
    return Hint(
        "another-issuer",
        f"The rule is for the issuer {rule.issuer}{same}, and the token is one of {here.name}: all its other "
        "conditions hold.",
        account.place,
        ("trust", rule.position, "issuer"),
        warning=f"issuer: {here.name} there would trust another platform to say who this is: only if whoever runs "
        f"{here.name} may give out this service account.",
    )


@dataclass(frozen=True, slots=True)
class _Miss:
    """A ``match`` or ``like`` condition that does not hold."""

    account: ServiceAccount
    rule: TrustRule
    condition: Match | Like
    workload: Workload

    def hint(self) -> Hint | None:
        """The first small difference that explains it."""
        seen = claim_at(self.claims, self.condition.path)
        for wanted in self.condition.wanted[:MAX_OPTIONS]:
            hint = _other_kind(self, wanted, seen) or _list(self, wanted, seen)
            if hint is None and isinstance(wanted, str) and isinstance(seen, str) and len(seen) <= MAX_VALUE_CHARACTERS:
                hint = next(
                    (found for differ in _DIFFERENCES if (found := differ(self, wanted, seen)) is not None), None
                )
            hint = hint or _moved(self, wanted)
            if hint is not None:
                return hint
        return None

    @property
    def claims(self) -> Claims:
        return self.workload.claims

    @property
    def is_glob(self) -> bool:
        return isinstance(self.condition, Like)

    @property
    def claim(self) -> str:
        """The claim in words."""
        return path_text(self.condition.path)

    def pins(self, claim: str) -> bool:
        """Whether the rule wants an exact value of a claim, and sees it."""
        return any(match.path == (claim,) and match.holds(self.claims) for match in self.rule.match)

    def rule_looks_at(self, claim: str) -> bool:
        """Whether the rule has a condition on a claim."""
        conditions: tuple[Match | Like, ...] = (*self.rule.match, *self.rule.like)
        return any(condition.path[0] == claim for condition in conditions)

    def would_hold(self, value: Scalar) -> bool:
        """Whether the claim satisfies the condition with this value in it."""
        seen = claim_at(self.claims, self.condition.path)
        if not self.is_glob:
            return scalar_key(value) == scalar_key(seen)
        return isinstance(value, str) and isinstance(seen, str) and parse_glob(value).fits(seen)

    def told(
        self,
        id_: str,
        sentence: str,
        wanted: Scalar,
        *values: Scalar,
        entries: Mapping[str, Scalar] | None = None,
        warning: str = "",
    ) -> Hint:
        """A hint about this condition; with ``values`` or ``entries`` it proposes them in the place of ``wanted``."""
        change = None
        if entries or (values and any(map(self.would_hold, values)) and all(map(_can_be_written, values))):
            change = Change(wanted, () if entries else values, entries or {})
        path: Path = ("trust", self.rule.position, "like" if self.is_glob else "match", *self.condition.path)
        return Hint(id_, sentence, self.account.place, path, change, warning)


def _can_be_written(value: Scalar) -> bool:
    """Whether a condition may hold the value: no blank at an end, and nothing that cannot be seen."""
    return not isinstance(value, str) or (value == value.strip() and value.isprintable())


def _other_kind(miss: _Miss, wanted: Scalar, seen: object) -> Hint | None:
    if not isinstance(seen, str | int) or type(seen) is type(wanted) or str(seen).lower() != str(wanted).lower():
        return None
    booleans = isinstance(seen, bool) or isinstance(wanted, bool)
    sentence = f"The claim {miss.claim} is {type_in_words(seen)}, and the rule wants {type_in_words(wanted)}."
    if miss.is_glob:
        sentence = f"The claim {miss.claim} is {type_in_words(seen)}: only texts fit a glob, so use match."
    return miss.told("boolean-against-text" if booleans else "number-against-text", sentence, wanted, seen)


def _list(miss: _Miss, wanted: Scalar, seen: object) -> Hint | None:
    if not isinstance(seen, list) or scalar_key(wanted) not in [
        scalar_key(item) for item in seen[:MAX_CLAIMS_SEARCHED]
    ]:
        return None
    sentence = (
        f"The claim {miss.claim} is a list that holds {shown(wanted)}: match and like never look into a list, "
        f"when does ({shown(wanted)} in the claim)."
    )
    return miss.told("list-against-text", sentence, wanted)


def _blanks(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    if "".join(wanted.split()) != "".join(seen.split()):
        return None
    sentence = f"The claim {miss.claim} and what the rule wants differ in blanks only."
    if not _can_be_written(seen):
        sentence = f"The claim {miss.claim} has blanks too many, which no rule can want: mend it where it is made."
    warning = "With other blanks it is another name: make sure that nobody else can have it."
    return miss.told("differs-in-blanks", sentence, wanted, seen, warning=warning)


def _slash(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    other = wanted.removesuffix("/") if wanted.endswith("/") else f"{wanted}/"
    if not other or not miss.would_hold(other) or (miss.is_glob and other.endswith("*")):
        return None
    sentence = f"The claim {miss.claim} and what the rule wants differ in a slash at the end only."
    return miss.told("differs-in-trailing-slash", sentence, wanted, other)


def _case(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    recased = _in_the_case_of(seen, wanted) if miss.is_glob else seen if differ_in_case(wanted, seen) else None
    if recased is None:
        return None
    sentence = f"The claim {miss.claim} and what the rule wants differ in upper and lower case only."
    warning = _case_warning(miss.condition.path[0], wanted, seen, miss.workload.issuer)
    return miss.told("differs-in-case", sentence, wanted, recased, warning=warning)


def _case_warning(claim: str, wanted: str, seen: str, issuer: TrustedIssuer) -> str:
    """What to look at before a rule takes another spelling; empty where the platform knows no two of one name."""
    ref = "".join(wanted.partition("refs/")[1:]).partition("*")[0]
    if claim in _REFS or ref not in seen:
        return "To git these are two branches or tags: make sure that the other one is protected as well."
    if says_who_calls(claim) and issuer.preset not in _PLATFORMS_WITHOUT_CASE:
        return "Make sure that both spellings are one and the same there, and never two owners."
    return ""


def _in_the_case_of(seen: str, glob: str) -> str | None:
    """A glob of one star at most in the upper and lower case of a text that fits it otherwise."""
    ready = parse_glob(glob)
    if not isinstance(ready, OneStar) or len(seen) < len(ready.prefix) + len(ready.suffix):
        return None
    end = len(seen) - len(ready.suffix)
    prefix, suffix = seen[: len(ready.prefix)], seen[end:]
    recased = f"{prefix}{ready.star}{suffix}" if ready.star else prefix
    is_same = differ_in_case(recased, glob)
    return recased if is_same and "*" not in prefix + suffix and parse_glob(recased).fits(seen) else None


def _extension(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    if not _EXTENSION.search(wanted):
        return None
    other = _EXTENSION.sub(lambda found: ".yaml" if found[0] == ".yml" else ".yml", wanted)
    if not miss.would_hold(other):
        return None
    (now,), (then,) = _EXTENSION.findall(seen)[:1], _EXTENSION.findall(wanted)[:1]
    sentence = f"The workflow file of {miss.claim} ends in {now}, and the rule wants {then}."
    return miss.told("differs-in-yml-or-yaml", sentence, wanted, other)


# ---------------------------------------------------------------- GitHub's subjects


def _immutable(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    """The forms of 2026 with the ids of owner and repository in them, on one side only."""
    if miss.workload.issuer.preset != _GITHUB:
        return None
    with_ids = _IMMUTABLE.match(seen)
    if with_ids is not None:
        written = f"repo:{with_ids['owner']}/{with_ids['name']}"
        other = f"{with_ids[0]}{wanted[len(written) :]}" if wanted.startswith(f"{written}:") else ""
        of_another = miss.claims.get("repository_id") not in (None, with_ids["id"])  # it may be a list, too
        if not other or of_another or not miss.would_hold(other):
            return None
        sentence = (
            "GitHub's sub has the ids of owner and repository in it here, as of every repository that was made, "
            "renamed or transferred since 15 July 2026."
        )
        return miss.told("github-immutable-subject", sentence, wanted, other, warning=_whose_ids(miss, seen))
    if not _IMMUTABLE.match(wanted) or not miss.would_hold(_without_ids(wanted)):
        return None
    sentence = "The rule wants a sub with the ids of owner and repository in it, and this repository's has none."
    if miss.pins("repository_id"):
        return miss.told("github-immutable-subject", sentence, wanted, _without_ids(wanted))
    warning = "Names alone can be taken over by others: turn use_immutable_subject on, or match repository_id as well."
    return miss.told("github-immutable-subject", sentence, wanted, warning=warning)


def _whose_ids(miss: _Miss, subject: str) -> str:
    """What to look at before a rule trusts the ids in a subject; empty where it trusts them by other claims already."""
    ids = _IMMUTABLE.match(subject)
    if ids is None or (miss.pins("repository_id") and miss.pins("repository_owner_id")):
        return ""
    return (
        f"Make sure that {ids['owner_id']} and {ids['id']} are the ids of your owner and repository: whoever takes a "
        "name over has others. A wildcard in their place would let those in."
    )


def _context(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    """What stands at the end of ``sub``: an environment, else ``pull_request``, else a branch or a tag."""
    if miss.workload.issuer.preset != _GITHUB:
        return None
    rule, token = _SUBJECT.fullmatch(wanted), _SUBJECT.fullmatch(seen)
    if rule is None or token is None or not _same_repository(rule["repository"], token["repository"]):
        return None
    there, here = _kind(rule["context"]), _kind(token["context"])
    if there == here:
        return None
    if here == "pull request":
        sentence = f"The job runs for a pull request, and the rule wants the subject of {_a(there)}."
        warning = "A rule for pull requests lets in everybody who may open one: leave the rule as it is."
        return miss.told("github-pull-request-subject", sentence, wanted, warning=warning)
    if here == "environment":
        return _environment(miss, wanted, seen, rule["ref"])
    if there == "environment":
        environment = rule["context"].partition(":")[2]
        sentence = (
            f"The job names no environment: the rule wants environment: {environment}, which goes into the job of the "
            "workflow."
        )
        warning = "The subject of a branch in its place would let in jobs that the environment's protection never saw."
        return miss.told("github-branch-subject", sentence, wanted, warning=warning)
    sentence = f"The job runs for {_a(here)}, and the rule wants the subject of {_a(there)}."
    warning = "Whoever may push a tag may not always push that branch, and the reverse: add a rule only if both may."
    return miss.told("github-tag-subject", sentence, wanted, warning=warning)


def _environment(miss: _Miss, wanted: str, seen: str, ref: str | None) -> Hint:
    """The job has an environment: its subject is safe only beside the branch, which is a claim of its own."""
    event, environment = miss.claims.get("event_name"), seen.partition(":environment:")[2]
    sentence = (
        f"The job names the environment {shown(environment)}, which GitHub's sub has instead of the branch: the rule "
        "wants the subject without one."
    )
    warning = "The subject of an environment says nothing of branch and event: keep ref and event_name beside it."
    warning = " ".join(filter(None, (warning, _whose_ids(miss, seen if "@" not in wanted else ""))))
    is_plain = miss.condition.path == ("sub",) and "*" not in seen and _can_be_written(seen)
    if not is_plain or ref is None or not isinstance(event, str) or event not in SAFE_EVENTS:
        return miss.told("github-environment-subject", sentence, wanted, warning=warning)
    if not _fits(ref, miss.claims.get("ref"), is_glob=miss.is_glob):  # another branch than the rule trusts
        return miss.told("github-environment-subject", sentence, wanted, warning=warning)
    beside = {name: value for name, value in (("ref", ref), ("event_name", event)) if not miss.rule_looks_at(name)}
    entries: dict[str, Scalar] = {"sub": seen, **beside}
    return miss.told("github-environment-subject", sentence, wanted, entries=entries, warning=warning)


def _kind(context: str) -> str:
    if context.startswith("environment:"):
        return "environment"
    if context == "pull_request":
        return "pull request"
    return "tag" if context.startswith("ref:refs/tags/") else "branch"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _same_repository(one: str, other: str) -> bool:
    """Whether two beginnings of subjects name one repository; ids count where both have them."""
    if "@" in one and "@" in other:
        return one == other
    return _without_ids(one) == _without_ids(other)


def _without_ids(text: str) -> str:
    found = _IMMUTABLE.match(text)
    return text if found is None else f"repo:{found['owner']}/{found['name']}{text[found.end() :]}"


def _fits(wanted: str, seen: object, *, is_glob: bool) -> bool:
    return isinstance(seen, str) and (parse_glob(wanted).fits(seen) if is_glob else wanted == seen)


# ---------------------------------------------------------------- globs, and claims beside


def _separator(miss: _Miss, wanted: str, seen: str) -> Hint | None:
    if not miss.is_glob or "*" not in wanted:
        return None
    if not miss.would_hold(wanted.replace("**", "*").replace("*", "**")):
        return None
    sentence = f"{shown(wanted)} would fit the claim {miss.claim} if * did not stop at / and :."
    deeper = _one_star_for_each_segment(wanted, seen)
    if deeper is not None and (miss.condition.path[-1] in _REFS or ":ref:refs/" in wanted.partition("*")[0]):
        warning = "Branch protection stops at / as well: make sure that it covers the names with one more."
        return miss.told("glob-stops-at-separator", sentence, wanted, wanted, deeper, warning=warning)
    warning = "** would fit everything that begins so, whoever it belongs to: name what is meant instead."
    return miss.told("glob-stops-at-separator", sentence, wanted, warning=warning)


def _one_star_for_each_segment(glob: str, seen: str) -> str | None:
    """``release/*`` as ``release/*/*`` for ``release/7/fix``: as many levels as the text has, and no more."""
    ready = parse_glob(glob)
    if not isinstance(ready, OneStar) or ready.star != "*":
        return None
    middle = seen[len(ready.prefix) : len(seen) - len(ready.suffix)]
    levels = middle.count("/") + 1
    return f"{ready.prefix}{'/'.join('*' * levels)}{ready.suffix}" if ":" not in middle and levels <= 4 else None


def _moved(miss: _Miss, wanted: Scalar) -> Hint | None:
    """The wanted value under another name."""
    if not isinstance(wanted, str) or len(wanted.replace("*", "")) < 4 or len(miss.condition.path) != 1:
        return None
    name = miss.condition.path[0]
    holders = [
        other
        for other, value in list(miss.claims.items())[:MAX_CLAIMS_SEARCHED]
        if other != name and _fits(wanted, value, is_glob=miss.is_glob)
    ]
    sibling = _SAME_TOKEN.get(miss.workload.issuer.preset, {}).get(name)
    other = sibling if sibling in holders else holders[0] if len(holders) == 1 else None
    if other is None:
        return None
    sentence = f"What the rule wants of the claim {name} is what the token's claim {other} is."
    warning = _why_not_to_look_there(miss, wanted, other, is_sibling=other == sibling)
    if warning or miss.rule_looks_at(other):
        return miss.told("moved-claim", sentence, wanted, warning=warning)
    return miss.told("moved-claim", sentence, wanted, entries={other: wanted})


def _why_not_to_look_there(miss: _Miss, wanted: str, other: str, *, is_sibling: bool) -> str:
    """Why a rule must not want of another claim what it wants of its own; empty where it may."""
    if other in _CHOSEN_BY_JOB:
        return f"Whoever sets the job off chooses {other}: do not trust it."
    if not is_sibling:
        name = miss.condition.path[0]
        return f"Make sure that {other} is written by the platform alone before a rule looks at it instead of {name}."
    if other != "job_workflow_ref":
        return ""
    if not (miss.pins("repository_id") or miss.pins("repository_owner_id")):
        return (
            "job_workflow_ref is the file that defines the job, and any repository may call it: match repository_id or "
            "repository_owner_id as well."
        )
    if _may_begin_with(wanted, f"{miss.claims.get('repository')}/"):
        return (
            "job_workflow_ref is the file that defines the job, and workflows of every branch may call it, with inputs "
            "of their own: workflow_ref is the right claim of a workflow of the repository itself."
        )
    return ""


def _may_begin_with(glob: str, text: str) -> bool:
    literal = glob.partition("*")[0].casefold()
    return literal.startswith(text.casefold()) or ("*" in glob and text.casefold().startswith(literal))


_Difference = Callable[[_Miss, str, str], Hint | None]
_DIFFERENCES: tuple[_Difference, ...] = (_blanks, _slash, _case, _extension, _immutable, _context, _separator)
"""Between two texts; the first one that explains a miss is told."""


# ---------------------------------------------------------------- a CEL condition


def condition_hint(condition: Condition, place: Place, path: Path, workload: Workload) -> Hint | None:
    """A text in a CEL condition that is nearly that of a claim which the condition reads: with it, it would hold."""
    claims, issuer = workload.claims, workload.issuer.name
    values = [claim_at(claims, claim) for claim in condition.paths[:MAX_LITERALS]]
    for literal in list(_LITERAL.finditer(condition.source))[:MAX_LITERALS]:
        wanted = literal[1] or literal[2]
        for claim, seen in zip(condition.paths, values, strict=False):
            id_ = _text_difference(wanted, seen)
            if id_ is None or not _is_compared(condition.source, literal):
                continue
            written = f'"{seen}"' if isinstance(seen, str) else str(seen).lower()
            source = f"{condition.source[: literal.start()]}{written}{condition.source[literal.end() :]}"
            if not _would_hold(source, claims, issuer):
                continue
            sentence = (
                f"The condition says {shown(wanted)}, and the claim {path_text(claim)} is {shown(seen)}: {HINTS[id_]}"
            )
            is_case = id_ == "differs-in-case" and isinstance(seen, str)
            warning = _case_warning(claim[0], wanted, seen, workload.issuer) if is_case else ""
            return Hint(id_, sentence, place, path, Change(condition.source, (source,)), warning)
    return None


def _is_compared(source: str, literal: re.Match[str]) -> bool:
    """Whether the condition holds for the text itself and because of it: nothing is denied by it, and nothing begins
    with it or fits it, of which a shorter text would let in others.
    """
    before, behind = source[: literal.start()], source[literal.end() :]
    if _REVERSING.search(_LITERAL.sub("", source)):
        return False
    return bool(_EQUALS_BEFORE.search(before) or _EQUALS_BEHIND.match(behind))


def _text_difference(wanted: str, seen: object) -> str | None:
    if isinstance(seen, bool):
        return "boolean-against-text" if str(seen).lower() == wanted.lower() else None
    if isinstance(seen, int):
        return "number-against-text" if str(seen) == wanted else None
    if not isinstance(seen, str) or seen == wanted or '"' in seen or "\\" in seen or not _can_be_written(seen):
        return None
    if len(seen) > MAX_VALUE_CHARACTERS:
        return None
    if differ_in_case(seen, wanted):
        return "differs-in-case"
    if seen.rstrip("/") == wanted.rstrip("/"):
        return "differs-in-trailing-slash"
    if _EXTENSION.sub(".yml", seen) == _EXTENSION.sub(".yml", wanted):
        return "differs-in-yml-or-yaml"
    return None


def _would_hold(source: str, claims: Claims, issuer: str) -> bool:
    try:
        return parse_condition(source).holds(claims, issuer)
    except CelError:
        return False


# ---------------------------------------------------------------- what a token says of itself


def identity_hints(generation: Generation, issuer: TrustedIssuer | None, claims: Claims) -> list[Hint]:
    """The near misses of ``iss`` and ``aud``. ``issuer`` is None where none has the ``iss``. Claims may be unverified:
    nothing is proposed that would trust an issuer for no better reason than that a token names it.
    """
    if issuer is None:
        return _unknown_issuer(generation, claims.get("iss"))
    aud = claims.get("aud")
    audiences = [aud] if isinstance(aud, str) else aud if isinstance(aud, list) else []
    if any(isinstance(one, str) and one in issuer.audiences for one in audiences):
        return []
    place = generation.issuer_places.get(issuer.name)
    for one in audiences[:MAX_OPTIONS]:
        if not isinstance(one, str):
            continue
        for accepted in sorted(issuer.audiences)[:MAX_OPTIONS]:
            id_ = _text_difference(accepted, one)
            if id_ is not None:
                sentence = f"The token's aud is {shown(one)}, and {issuer.name} accepts {shown(accepted)}: {HINTS[id_]}"
                return [Hint(id_, sentence, place, ("audiences",), ask_for={"aud": accepted})]
        for other in generation.issuers:
            if one in other.audiences:
                sentence = (
                    f"The token's aud {shown(one)} is one that the issuer {other.name} accepts ({other.url}), and the "
                    f"token is one of {issuer.name}."
                )
                warning = f"Add it to the audiences of {issuer.name} only if it is yours alone."
                ask_for = {"aud": min(issuer.audiences)}
                return [Hint("another-issuer", sentence, place, ("audiences",), warning=warning, ask_for=ask_for)]
    return []


def _unknown_issuer(generation: Generation, iss: object) -> list[Hint]:
    if not isinstance(iss, str) or not iss or len(iss) > MAX_VALUE_CHARACTERS:
        return []
    by_url = {issuer.url: issuer for issuer in generation.issuers}
    near = next((url for url in by_url if _text_difference(url, iss)), "") or nearest(iss, by_url)
    if not near:
        return []
    id_ = _text_difference(near, iss) or "unknown-issuer"
    name = by_url[near].name
    return [
        Hint(
            id_,
            f"The token's iss is {shown(iss)}, and the url of the issuer {name} is {shown(near)}: {HINTS[id_]}",
            generation.issuer_places.get(name),
            ("url",),
            warning="Write what the platform's own discovery document says as issuer, byte for byte, and nothing that "
            "only a token says.",
        )
    ]


# ---------------------------------------------------------------- what a request asks for


def request_hints(generation: Generation, account: ServiceAccount | None, request: TokenRequest) -> list[Hint]:
    """The near misses in ``client_id``, ``resource`` and ``scope``. ``account`` is the one in question."""
    found = []
    if request.client_id is not None and generation.service_account(request.client_id) is None:
        near = nearest(request.client_id, generation.service_accounts)
        if near:
            sentence = f"No service account is called {shown(request.client_id)}, and one is called {near}."
            place = generation.service_accounts[near].place
            is_template = generation.service_accounts[near].template is not None
            ask_for = {} if is_template else {"client_id": near}
            found.append(Hint("unknown-service-account", sentence, place, ("name",), ask_for=ask_for))
    if account is None:
        return found
    found += _resource_hints(generation, account, request)
    return found + _scope_hints(generation, account, request)


def _resource_hints(generation: Generation, account: ServiceAccount, request: TokenRequest) -> list[Hint]:
    asked = request.resource
    known = generation.resource(asked) if asked is not None else None
    if asked is None or (known is not None and known.name in account.access):
        return []
    names = {name: name for name in account.access}
    names |= {generation.resources[name].identifier: name for name in account.access}
    near = nearest(asked, names)
    if not near:
        return []
    sentence = f"{account.name} has no access to {shown(asked)}, but to {near}."
    place = generation.resources[names[near]].place
    path: Path = ("name",) if near == names[near] else ("identifier",)
    return [Hint("unknown-resource", sentence, place, path, ask_for={"resource": near})]


def _scope_hints(generation: Generation, account: ServiceAccount, request: TokenRequest) -> list[Hint]:
    resource = _asked_resource(generation, account, request.resource)
    if resource is None or request.scopes is None:
        return []
    there = account.access[resource]
    near = {one: nearest(one, there) for one in request.scopes if one not in generation.resources[resource].scopes}
    if not any(near.values()):
        return []
    wrong, right = next((one, name) for one, name in near.items() if name)
    corrected = " ".join(dict.fromkeys(near.get(one) or one for one in request.scopes))
    sentence = f"{resource} has no scope {shown(wrong)}, but {right}."
    place = generation.resources[resource].place
    return [Hint("unknown-scope", sentence, place, ("scopes", right), ask_for={"scope": corrected})]


def _asked_resource(generation: Generation, account: ServiceAccount, asked: str | None) -> str | None:
    if asked is None:
        return next(iter(account.access)) if len(account.access) == 1 else None
    known = generation.resource(asked)
    return known.name if known is not None and known.name in account.access else None


def distinct(hints: Iterable[Hint]) -> tuple[Hint, ...]:
    """The hints, each place once, the first few of many."""
    found: dict[tuple[str, Place | None, Path], Hint] = {}
    for hint in hints:
        found.setdefault((hint.id, hint.place, hint.path), hint)
    return tuple(found.values())[:MAX_HINTS]
