"""``gateway policy replay``: recorded requests under other policies, and what would change."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.policy.audit_files import SinceOption, UntilOption
from gateway.cli.policy.files import GatewayIssuerOption, PoliciesOption
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.audit.reading import RecordReader
    from gateway.policy.replay import Group, Replay

MAX_GROUPS_SHOWN = 50
MAX_SUBJECTS_SHOWN = 5

_HEADINGS = {"denied": "would be denied", "granted": "would be granted", "different": "would get something else"}
_WHY_UNDECIDED = {
    "before_policy": "were refused before the policy was asked",
    "no_answer": "had no answer, for the server failed",
    "own_token": "were about a token of the gateway's own",
    "claims_unknown": "hang on a claim that is not in the record",
    "issuer_ambiguous": "came from an issuer whose URL several have now",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def replay(
    files: list[Path] = typer.Argument(
        metavar="FILE...", help="Audit logs, also rotated and compressed with gzip; - is standard input."
    ),
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    output: str = typer.Option("text", "--output", "-o", help="text, json or markdown."),
) -> None:
    """Decide yesterday's requests under tomorrow's policies.

    Every request in an audit log is decided again by these policies, and what would change is told by rule and subject:
    who would be denied and why, who would be granted what, and who would get something else. Only policy is decided
    again: that a token verified is taken from the record, and what a record does not tell is counted, not guessed.
    Exit code 0: nothing would change; 1: something would; 2: used wrongly, or the records do not tell.

        gateway policy replay /var/log/gateway/audit.jsonl --policies policies/
        gateway policy replay audit.jsonl audit.jsonl.1 audit.jsonl.2.gz --since 7d --policies new/
        kubectl logs deployment/gateway | gateway policy replay - --output markdown
    """
    from gateway.cli.policy.audit_files import nothing_found, open_records, period
    from gateway.cli.policy.files import DEFAULT_GATEWAY_ISSUER, policy_files
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.policy.replay import Replay

    if output not in {"text", "json", "markdown"}:
        raise typer.BadParameter("is text, json or markdown", param_hint="--output")
    within = period(since, until)
    try:
        chosen = policy_files(config, policies, gateway_issuer, insecure_http)
        generation = chosen.generation()
    except ConfigurationProblems as problems:
        exit_with_problems(problems, "json" if output == "json" else "text")
        return
    assumed = chosen.gateway_issuer if chosen.gateway_issuer == DEFAULT_GATEWAY_ISSUER else None
    played = Replay(generation, assumed_audience=assumed)
    with open_records(files, within, "Replaying") as (reader, records):
        for recorded in records:
            played.take(recorded)
    if played.records == 0:
        raise typer.BadParameter(nothing_found(reader, within), param_hint="FILE")
    told = {"text": _text, "markdown": _markdown}
    if output == "json":
        print(json.dumps(_json(played, reader), indent=2))
    else:
        print("\n".join(told[output](played, reader, str(chosen.folder))))
    if played.changes or played.tells_nothing:
        raise typer.Exit(1 if played.changes else 2)


def _text(played: "Replay", reader: "RecordReader", folder: str) -> Iterator[str]:
    from gateway.policy.problems import visible

    for line in _lines(played, reader, folder):
        yield visible(line)


def _lines(played: "Replay", reader: "RecordReader", folder: str) -> Iterator[str]:
    yield _summary(played, folder)
    shown = played.groups()[:MAX_GROUPS_SHOWN]
    for answer, heading in _HEADINGS.items():
        if not (count := _count(played, answer)):
            continue
        yield ""
        yield f"{heading}: {count:,}"
        for group in shown:
            if group.kind.answer == answer:
                yield from _group_lines(group)
    yield from _rest(played, reader, len(shown))


def _group_lines(group: "Group") -> Iterator[str]:
    yield f"  {group.count:,} of {_who(group)}: {_what(group)}"
    if group.wanted or group.gives:
        yield f"      such as request {group.example}: {group.wanted or group.gives}"
    for subject, count in group.subjects.most_common(MAX_SUBJECTS_SHOWN):
        yield f"      {count:,} of {subject or 'no subject'}"
    told = sum(count for _, count in group.subjects.most_common(MAX_SUBJECTS_SHOWN))
    if group.count > told:
        yield f"      {group.count - told:,} of others"


def _markdown(played: "Replay", reader: "RecordReader", folder: str) -> Iterator[str]:
    yield "### Replay"
    yield ""
    yield _escaped(_summary(played, folder))
    shown = played.groups()[:MAX_GROUPS_SHOWN]
    for answer, heading in _HEADINGS.items():
        if not (count := _count(played, answer)):
            continue
        yield ""
        yield f"**{heading.capitalize()}: {count:,}**"
        yield ""
        yield "| requests | rule | what | subjects |"
        yield "| ---: | --- | --- | --- |"
        for group in shown:
            if group.kind.answer == answer:
                subjects = [f"{count:,} of {subject}" for subject, count in group.subjects.most_common(3)]
                cells = (f"{group.count:,}", _who(group), _what(group), ", ".join(subjects))
                yield f"| {' | '.join(map(_escaped, cells))} |"
    for line in _rest(played, reader, len(shown)):
        yield _escaped(line)


def _summary(played: "Replay", folder: str) -> str:
    from gateway.cli.policy.audit_files import time_text

    begin, end = time_text(played.first), time_text(played.last)
    changes = f"{played.changes:,} would change" if played.changes else "nothing would change"
    changes = "nobody can tell what would change" if played.tells_nothing else changes
    again = f"{played.decided:,} decided again under {folder}: {changes}"
    return f"{played.records:,} requests from {begin} to {end}; {again}."


def _rest(played: "Replay", reader: "RecordReader", shown: int) -> Iterator[str]:
    from gateway.cli.policy.audit_files import skipped_in_words
    from gateway.policy.replay import Answer

    left = len(played.groups()) - shown
    if left or played.ungrouped:
        yield ""
        further = f"{played.ungrouped:,} changes of yet others were not told apart" if played.ungrouped else ""
        yield f"{left:,} smaller groups are left out; --output json has them. {further}".rstrip()
    if other := played.answers[Answer.OTHER_REASON]:
        yield ""
        yield f"{other:,} would still be denied, for another reason."
    if played.undecided:
        yield ""
        yield f"Not decided again: {played.undecided.total():,}"
        for why, count in played.undecided.most_common():
            yield f"  {count:,} {_WHY_UNDECIDED[why.value]}"
    if skipped := skipped_in_words(reader):
        yield ""
        yield skipped


def _count(played: "Replay", answer: str) -> int:
    from gateway.policy.replay import Answer

    return played.answers[Answer(answer)]


def _who(group: "Group") -> str:
    kind = group.kind
    account = "/".join(part for part in (kind.service_account, kind.rule) if part) or "no service account"
    return f"{account} ({kind.issuer})" if kind.issuer is not None else account


def _what(group: "Group") -> str:
    kind = group.kind
    if kind.differences:
        return ", ".join(f"{one.name} {one.before} -> {one.after}" for one in kind.differences)
    return f"was {kind.reason}" if kind.answer == "granted" else kind.reason


def _escaped(text: str) -> str:
    """Text as Markdown shows it: what came out of tokens and files marks up nothing, and links nowhere."""
    from gateway.policy.problems import visible

    escaped = _MARKDOWN.sub(r"\\\1", visible(text))
    return escaped.replace("://", ":\u200b//").replace("@", "@\u200b").replace("www.", "www\u200b.")


def _json(played: "Replay", reader: "RecordReader") -> dict[str, Any]:
    from gateway.cli.policy.audit_files import time_text
    from gateway.policy.replay import Answer

    return {
        "ok": played.changes == 0 and not played.tells_nothing,
        "records": played.records,
        "first": time_text(played.first),
        "last": time_text(played.last),
        "decided": played.decided,
        "changes": played.changes,
        "answers": {answer.value: played.answers[answer] for answer in Answer},
        "undecided": {why.value: count for why, count in played.undecided.items()},
        "groups": [_group_json(group) for group in played.groups()],
        "ungrouped": played.ungrouped,
        "skipped": dict(reader.skipped),
    }


def _group_json(group: "Group") -> dict[str, Any]:
    from gateway.cli.policy.audit_files import time_text

    kind = group.kind
    return {
        "answer": kind.answer.value,
        "count": group.count,
        "issuer": kind.issuer,
        "service_account": kind.service_account,
        "rule": kind.rule,
        "reason": kind.reason,
        "differences": {one.name: {"before": one.before, "after": one.after} for one in kind.differences},
        "wanted": group.wanted,
        "gives": group.gives,
        "request_id": group.example,
        "first": time_text(group.first),
        "last": time_text(group.last),
        "subjects": dict(group.subjects),
        "other_subjects": group.other_subjects,
    }
