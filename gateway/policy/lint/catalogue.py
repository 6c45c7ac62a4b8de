"""Every lint rule by its id. Adding one is a rule in the table of its subject, and a case of it in ``cases``."""

from collections.abc import Mapping

from gateway.policy.lint import (
    audiences,
    aws,
    claim_types,
    contexts,
    guardrails,
    issuers,
    kubernetes,
    lifetimes,
    pins,
    subjects,
    template_names,
    usage,
)
from gateway.policy.lint.base import LintRule

DOES_NOT_LOAD = LintRule(
    id="LOAD000",
    severity="error",
    title="The files do not load",
    why="A gateway would keep the policies that it had. Nothing else is looked at until they load.",
    fix="Correct what is named; gateway check says the same.",
)
IGNORED_WITHOUT_REASON = LintRule(
    id="LINT001",
    severity="warning",
    title="A rule is silenced without a reason",
    why="Whoever reads the file next year has to know why the finding is no matter here. Without a reason "
    "nothing is silenced.",
    fix="Write # lint: ignore RULE and the reason behind it.",
)
IGNORED_UNKNOWN_RULE = LintRule(
    id="LINT002",
    severity="warning",
    title="A comment silences a rule that there is not",
    why="It is misspelt, or another tool's. It silences nothing.",
    fix="Take the id from the finding, or from gateway policy lint --list.",
)
IGNORED_NOTHING = LintRule(
    id="LINT003",
    severity="info",
    title="A comment that silences nothing",
    why="The rule has no finding on that line, so that the comment hides the next one that comes.",
    fix="Remove the comment, or put it on the line of the finding, or alone on the line above.",
)

RULES: Mapping[str, LintRule] = {
    rule.id: rule
    for rule in (
        *pins.RULES,
        *issuers.RULES,
        *audiences.RULES,
        *subjects.RULES,
        *contexts.RULES,
        *kubernetes.RULES,
        *aws.RULES,
        *claim_types.RULES,
        *guardrails.RULES,
        *lifetimes.RULES,
        *usage.RULES,
        *template_names.RULES,
        DOES_NOT_LOAD,
        IGNORED_WITHOUT_REASON,
        IGNORED_UNKNOWN_RULE,
        IGNORED_NOTHING,
    )
}
"""In the order of their subjects. An id is a promise to files: it is never renamed, and never given to another rule."""
