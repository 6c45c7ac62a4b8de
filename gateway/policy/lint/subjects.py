"""Lint of who is calling: globs that reach too far, names that can be taken over, values of one run alone. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterator

from gateway.model import ClaimPath
from gateway.policy.implication import admits_everybody
from gateway.policy.lint.base import LintRule, Policies, Remark, TrustView, claim_text, values_text
from gateway.policy.lint.facts import NOTHING
from gateway.policy.lint.platforms import SUB
from gateway.policy.lint.syntax import Call, Claim, Literal, demanded
from gateway.policy.problems import Path

_TENANT_IN_SUBJECT = re.compile(r"(?:spiffe://|(?:project_path|organization|repo|owner|account|org)[:/])?([^/:]*)")
_BEHIND_THE_WORKLOAD = re.compile(r":(?:ref|environment|ref_type|context|pull_request)(?::|$)")
_PER_TENANT = frozenset({"repository", "project_path", "namespace_path", "job_workflow_ref", "workflow_ref"})
_NAME_OF_SUBJECT = re.compile(r"repo:[^/:@]+/[^/:@]+(?::.*)?", re.DOTALL)
_ADDRESSES = frozenset({"email", "user_email", "preferred_username", "upn", "unique_name"})
_NESTED = ("kubernetes.io", "https://sts.amazonaws.com/")
_FLAGS = re.compile(r"\(\?[a-zA-Z]+\)")
_BY_LINES = re.compile(r"\(\?[a-zA-Z]*m")
_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_LOOSE_FAMILIES = frozenset({"kubernetes", "aws"})
"""Where globs over ``sub`` have rules of their own."""


def _everybody(view: TrustView) -> Iterator[Remark]:
    if view.account.template is None and admits_everybody(view.rule, view.issuer.issuer):
        yield view.remark("holds of every token of the issuer")


def _tenant_glob(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in _globs(view):
        if _opens_tenant(view, path, glob):
            yield Remark(where, f"{glob} has a star where the tenant stands: whoever takes such a name is let in")


def _cut_name(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in _globs(view):
        if not _opens_tenant(view, path, glob) and _cuts_name(path, glob):
            before = glob.partition("*")[0]
            yield Remark(where, f"{glob} also fits names that merely begin with {before}")


def _crossing(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in _globs(view):
        before, _, _ = glob.partition("**")
        if "**" not in glob or not before or _opens_tenant(view, path, glob) or _cuts_name(path, glob):
            continue
        if not _BEHIND_THE_WORKLOAD.search(before):
            yield Remark(where, f"** in {glob} passes over / and :, so that one part of the name can become several")


def _unanchored(view: TrustView) -> Iterator[Remark]:
    for node, holds in demanded(view.when) if view.when is not None else ():
        match node:
            case Call("matches", (Claim(path), Literal(str(pattern)))) if path and holds and not _is_whole(pattern):
                yield view.remark(f"{pattern} is looked for anywhere in {claim_text(path)}", path)


def _loose_subject(view: TrustView) -> Iterator[Remark]:
    who = view.platform.subject_is_loose
    if who and not view.fixes(view.platform.workload):
        for path, glob, where in view.globs:
            if path == SUB and "*" in glob:
                yield Remark(where, f"{who} shape sub, and the rule fixes no other claim that says who is calling")


def _one_run(view: TrustView) -> Iterator[Remark]:
    for path in sorted(view.platform.each_run):
        if (values := view.own.get(path, NOTHING).values) and view.own[path].present:
            words = f"{claim_text(path)} is another one each time: {values_text(values, 1)} does not come again"
            yield view.remark(words, path)


def _name_form(view: TrustView) -> Iterator[Remark]:
    written = [value for value in view.own.get(SUB, NOTHING).values or () if isinstance(value, str)]
    written += [glob for path, glob, _ in view.globs if path == SUB]
    for text in sorted(written):
        if _NAME_OF_SUBJECT.fullmatch(text):
            yield view.remark(f"{text} stops matching when the repository is renamed or transferred", SUB)


def _truncated(view: TrustView) -> Iterator[Remark]:
    if view.mentions(("sub127",)):
        yield view.remark("sub127 is cut off: branches that begin alike are the same in it", ("sub127",))


def _dotted(view: TrustView) -> Iterator[Remark]:
    for path in view.rule.paths:
        for parent in _NESTED:
            rest = path[0].removeprefix(parent)
            if path[0] != rest and rest:
                within = rest.strip("./").replace("/", ".")
                yield view.remark(f"{path[0]} is no claim: {within} is within the claim {parent}", path)
        if path[:2] == ("kubernetes", "io"):
            yield view.remark('kubernetes.io is one name: claims["kubernetes.io"], or kubernetes.io: in match', path)


def _renamable(view: TrustView) -> Iterator[Remark]:
    platform = view.platform
    if view.fixes(platform.workload) and (not platform.tenant or view.fixes(platform.tenant)):
        return
    open_globs = {path for path, glob, _ in view.globs if glob.startswith("*")}
    names = [
        (name, of)
        for name, of in platform.names.items()
        if view.narrows(name) and not view.is_fixed(of) and name not in open_globs
    ]
    written = [(name, of) for name, of in names if view.mentions(name)]
    for name, of in written or names[:1]:
        words = f"{claim_text(name)} can be renamed and taken over, and {claim_text(of)} is not fixed"
        yield view.remark(words, name if view.mentions(name) else SUB)


def _address(view: TrustView) -> Iterator[Remark]:
    for path in view.rule.paths:
        if path[-1] in _ADDRESSES:
            yield view.remark(f"{claim_text(path)} can be given up and given to another", path)


def _disagreeing(policies: Policies) -> Iterator[Remark]:
    for issuer in policies.issuers.values():
        seen: dict[tuple[ClaimPath, str], dict[str, tuple[TrustView, Path]]] = defaultdict(dict)
        for rule in issuer.rules if issuer.platform.names else ():
            exact = {match.path: match.wanted[0] for match in rule.match if len(match.wanted) == 1}
            for name, of in issuer.platform.names.items():
                known_as, number = exact.get(name), exact.get(of)
                if isinstance(known_as, str) and isinstance(number, str):
                    names = seen[of, number]
                    if known_as not in names:
                        view = issuer.trust(rule)
                        names[known_as] = (view, view.path_of(name))
        for (of, number), names in seen.items():
            (first, _), *others = names.items()
            for other, (view, where) in others:
                words = f"{claim_text(of)} {number} is called {other} here and {first} elsewhere"
                yield Remark(where, f"{words}: was it renamed?", view.place)


def _globs(view: TrustView) -> Iterator[tuple[ClaimPath, str, Path]]:
    """The globs over who is calling that nothing else makes harmless."""
    platform = view.platform
    if platform.family in _LOOSE_FAMILIES:
        return
    if view.fixes(platform.workload) and (not platform.tenant or view.fixes(platform.tenant)):
        return
    who = platform.identifying | platform.files
    for path, glob, where in view.globs:
        if path in who and glob.strip("*") and "*" in glob:
            yield path, glob, where


def _opens_tenant(view: TrustView, path: ClaimPath, glob: str) -> bool:
    """Whether a star stands where the glob says whose workload it is, and nothing else does."""
    if view.platform.tenant and view.fixes(view.platform.tenant):
        return False
    if path == SUB:
        found = _TENANT_IN_SUBJECT.match(glob)
        return found is not None and "*" in found[1]
    if path[0] in _PER_TENANT:
        return "*" in glob.partition("/")[0]
    return path in view.platform.names and any(
        view.platform.names[path] in alternative for alternative in view.platform.tenant
    )


def _cuts_name(path: ClaimPath, glob: str) -> bool:
    """Whether the first star stands right behind a letter or digit of who is calling."""
    before = glob.partition("*")[0]
    if not before or not before[-1].isalnum():
        return False
    return (path != SUB or not _BEHIND_THE_WORKLOAD.search(before)) and "@" not in before


def _is_whole(pattern: str) -> bool:
    """Whether a regular expression has to fit the whole text, each of its alternatives, and not one of its lines."""
    bare = _ESCAPED_OR_CLASS.sub(lambda found: found[0] if found[0] in {r"\A", r"\z"} else "x", pattern)
    if _BY_LINES.search(bare):
        return False
    bare = _FLAGS.sub("", bare) if _FLAGS.match(bare) else bare
    depth = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            return False
    return bare.startswith(("^", r"\A")) and bare.endswith(("$", r"\z"))


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="SUB001",
        severity="error",
        title="A rule that holds of every token of its issuer",
        why="The conditions ask for nothing but what every token has. Every workload of the issuer may become the "
        "service account.",
        fix="Name the workload: match its ids, or the whole of sub.",
        of_trust=_everybody,
    ),
    LintRule(
        id="SUB002",
        severity="error",
        title="A star where the tenant stands",
        why="Owners, organisations, groups and trust domains can be made by anybody. A star there lets in whoever "
        "takes a name that fits.",
        fix="Write the tenant out, best by its id; list several where there are several.",
        of_trust=_tenant_glob,
    ),
    LintRule(
        id="SUB003",
        severity="error",
        title="A star in the middle of a name",
        why="What stands before the star does not end where the name ends: acme/web* also fits acme/website and "
        "acme/web-fork.",
        fix="End the fixed part on a separator (/ or :), or list the names.",
        of_trust=_cut_name,
    ),
    LintRule(
        id="SUB004",
        severity="warning",
        title="A double star over who is calling",
        why="** passes over the separators / and :, so that whoever chooses a later part of the name can make up "
        "the parts that the rule means to look at.",
        fix="Use * for one part of the name, or match claims one by one.",
        of_trust=_crossing,
    ),
    LintRule(
        id="SUB005",
        severity="error",
        title="A regular expression that need not fit the whole text",
        why="matches looks for the expression anywhere in the claim: acme/web is found in evil/acme/web-fork as "
        "well. Of ^a|b$ only one side of each alternative is tied.",
        fix="Write ^(?:...)$ around the whole expression, or use match and like, which always compare the whole text.",
        of_trust=_unanchored,
    ),
    LintRule(
        id="SUB006",
        severity="warning",
        title="A glob over a subject that others shape",
        why="On this platform the form of sub is not the platform's alone, and texts of the job stand in it. What a "
        "glob means today it need not mean tomorrow.",
        fix="Match the claims that sub is made of, by their ids, and leave sub out.",
        of_trust=_loose_subject,
    ),
    LintRule(
        id="SUB007",
        severity="warning",
        title="A value that does not come again",
        why="The claim is different in every run, so the rule fits one run and never another. People then replace "
        "it by a star.",
        fix="Match a claim that stays: an id of the workload, the branch, the workflow file.",
        of_trust=_one_run,
    ),
    LintRule(
        id="SUB008",
        severity="info",
        title="GitHub's sub in its old form, by names",
        why="Since July 2026 new, renamed and transferred repositories have ids in sub (repo:acme@1/web@2:...). "
        "This form stops matching on the day of a rename.",
        fix="Match repository_id and repository_owner_id, which are the same in both forms.",
        families=frozenset({"github"}),
        of_trust=_name_form,
    ),
    LintRule(
        id="SUB009",
        severity="error",
        title="A subject that is cut off",
        why="sub127 holds the first characters of each part. Two branches that begin alike are one, and whoever may "
        "push the one becomes the other.",
        fix="Match org_id, prj_id, ref_type and ref.",
        families=frozenset({"semaphore"}),
        of_trust=_truncated,
    ),
    LintRule(
        id="SUB010",
        severity="error",
        title="A path to a claim that is read otherwise",
        why="A dot in a claim's name is part of the name, and a nested claim stands in a nested mapping. Written "
        "otherwise the rule looks at a claim that no token has, and never holds.",
        fix='Write match: {kubernetes.io: {namespace: ...}}, or claims["kubernetes.io"].namespace.',
        families=frozenset({"kubernetes", "aws"}),
        of_trust=_dotted,
    ),
    LintRule(
        id="NAME001",
        severity="warning",
        title="A name that can be taken over, and its id is not fixed",
        why="Names go back to the pool when something is renamed or deleted. Whoever takes the name then has the "
        "access.",
        fix="Match the id, which is never given out again; the name may stay beside it as a label.",
        of_trust=_renamable,
    ),
    LintRule(
        id="NAME002",
        severity="warning",
        title="An e-mail address or login as identity",
        why="Addresses and logins change hands. On some platforms people can set them themselves.",
        fix="Match the id of the account: sub, oid or user_id.",
        of_trust=_address,
    ),
    LintRule(
        id="NAME003",
        severity="info",
        title="One id under two names",
        why="Two rules fix the same id with different names, so that at most one of them can hold: it was probably "
        "renamed.",
        fix="Bring the names up to date, or leave them out: the id suffices.",
        of_policies=_disagreeing,
    ),
)
