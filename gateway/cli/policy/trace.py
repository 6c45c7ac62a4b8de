"""An explanation for people: what passed, what did not, and what to change. Colour only where a terminal shows it."""

import re
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from gateway.oauth.reasons import REASONS
from gateway.policy.problems import path_text, visible

_INDENT = "  "
_MISTAKABLE = re.compile(r"|-?[0-9]+|true|false|null|nothing")
_SIGNATURES = {
    "verified": ", signature verified",
    "not checked": ", signature not checked: the issuer's keys are not in the files",
    "assumed": ", taken as verified",
}


def print_explanation(document: dict[str, Any]) -> None:
    """Prints the JSON form of an explanation as text. Whatever is in it, the terminal shows it as it is."""
    _Trace(Console(highlight=False, soft_wrap=True, markup=False, emoji=False)).whole(document)


class _Trace:
    """Prints one explanation, part by part."""

    def __init__(self, console: Console) -> None:
        self._console = console
        symbols = _can_show("✓✗")
        self._passed, self._failed = ("✓", "✗") if symbols else ("ok", "NO")

    def whole(self, document: dict[str, Any]) -> None:
        self._verdict(document)
        self._checks(_title(document), document["identity"])
        self._checks("Before any trust rule", document["gates"])
        for rule in document["rules"]:
            self._rule(rule)
        if document["rules_left_out"] > 0:
            self._line(Text(f"... and {document['rules_left_out']} more rules, further away", "dim"))
        self._checks("What comes out", document["entitlement"])
        self._result(document["result"])
        for number, hint in enumerate(document["hints"], 1):
            self._hint(number, hint)

    def _verdict(self, document: dict[str, Any]) -> None:
        reason = str(document["reason"])
        granted = document["granted"] is True
        line = Text("Granted" if granted else "Denied", "bold green" if granted else "bold red")
        line.append("" if granted else f": {visible(reason)}", "bold")
        self._line(line)
        sentence = REASONS[reason].sentence if reason in REASONS else ""
        if not granted and sentence:
            self._line(Text(_INDENT + sentence))
        if document["wanted"] not in {"", sentence} and not granted:
            self._line(Text(_INDENT + visible(str(document["wanted"]))))
        if document["decision"] != reason:
            words = "would grant it" if document["decision"] == "granted" else f"would say {document['decision']}"
            self._line(Text(f"{_INDENT}The policies {visible(words)}."))
        if not granted and document["advice"] and not document["rules"] and not document["hints"]:
            self._line(Text(_INDENT + visible(str(document["advice"])), "dim"))
        if document.get("in_force") is False:
            self._line(Text(f"{_INDENT}The policies have changed since: lines are those of now.", "yellow"))

    def _rule(self, rule: dict[str, Any]) -> None:
        title = Text(visible(str(rule["rule"])), "bold")
        title.append(f"  {_where(rule)}", "dim")
        title.append("  lets it in" if rule["admits"] else "  does not let it in", "green" if rule["admits"] else "red")
        self._line(Text())
        self._line(title)
        for check in rule["checks"]:
            self._check(check)
        if rule["checks_left_out"] > 0:
            self._line(Text(f"{_INDENT}... and {rule['checks_left_out']} more checks", "dim"))

    def _checks(self, title: str, checks: list[dict[str, Any]]) -> None:
        if not checks:
            return
        self._line(Text())
        self._line(Text(title, "bold"))
        for check in checks:
            self._check(check)

    def _check(self, check: dict[str, Any]) -> None:
        passed = check["passed"] is True
        line = Text(_INDENT)
        line.append(f"{self._passed if passed else self._failed} ", "green" if passed else "bold red")
        line.append(_subject(check))
        wanted, seen = _value(check["wanted"]), _value(check["seen"])
        if _is_about_times(check):
            wanted, seen = _times(check["wanted"]), _times(check["seen"])
        verb = "refuses unless this is false:" if check["kind"] == "guardrail" else "wants"
        if passed and check["kind"] == "identity":
            line.append(f"  {seen}", "dim")
        elif passed:
            line.append(f"  {f'{verb} ' if check['kind'] == 'guardrail' else ''}{wanted}", "dim")
            if check["kind"] not in {"match", "issuer"} and check["seen"] not in (None, check["wanted"]):
                line.append(f"  saw {seen}", "dim")
        elif check["wanted"] != "" or check["seen"] is not None:  # else the note says it all
            line.append(f"  {verb} {wanted}; saw {seen}")
        if check["note"]:
            line.append(f"  ({visible(str(check['note']))})")
        if not passed and check.get("line"):
            line.append(f"  line {check['line']}" if check.get("file") is None else f"  {_where(check)}", "dim")
        self._line(line)

    def _result(self, result: dict[str, Any] | None) -> None:
        if result is None:
            return
        self._line(Text())
        scopes = " ".join(map(str, result["scopes"]))
        words = f"{result['service_account']} gets {scopes} at {result['resource']} for {result['lifetime_seconds']} s"
        self._line(Text(visible(words), "green"))

    def _hint(self, number: int, hint: dict[str, Any]) -> None:
        self._line(Text())
        line = Text(f"{number}. ", "bold yellow")
        line.append(visible(str(hint["sentence"])), "yellow")
        self._line(line)
        if hint["file"]:
            self._line(Text(f"   {_where(hint)}"))
        change = hint["change"]
        if change is not None:
            self._line(Text(f"   - {visible(str(change['now']))}", "red"))
            for written in str(change["write"]).split("\n"):
                self._line(Text(f"   + {visible(written)}", "green"))
        for name, value in hint["ask_for"].items():
            self._line(Text(f"   ask for {visible(str(name))}={_value(value)}", "green"))
        if hint["warning"]:
            self._line(Text(f"   ! {visible(str(hint['warning']))}", "bold"))

    def _line(self, text: Text) -> None:
        self._console.print(text)


def _title(document: dict[str, Any]) -> str:
    issuer, signature = document["issuer"], str(document.get("signature"))
    what = "The claims" if signature == "assumed" else "The token"
    whose = f"{what} of {visible(str(issuer))}" if issuer else what
    return whose + _SIGNATURES.get(signature, "")


def _subject(check: dict[str, Any]) -> str:
    """What a check is about: its kind and the claim, or whose it is."""
    path = visible(path_text(tuple(str(step) for step in check["path"])))
    kind = visible(str(check["kind"]))
    if kind == "identity":
        return path
    if kind in {"guardrail", "when"}:
        return visible(str(check["of"])) if kind == "guardrail" or str(check["of"]).startswith("issuer/") else kind
    if kind in {"scope", "lifetime", "token_claims"}:
        return f"{kind} {path}".strip() + f" by {visible(str(check['of']))}"
    return f"{kind} {path}".strip()


def _where(part: dict[str, Any]) -> str:
    return f"{visible(str(part['file']))}:{part['line']}" if part.get("file") else ""


def _value(value: object) -> str:
    """A value on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, str):  # in quotes where it could be taken for a number, a boolean or nothing
        return visible(f'"{value}"' if _MISTAKABLE.fullmatch(value) or value.strip() != value else value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{visible(str(name))}: {_value(member)}" for name, member in value.items()) or "nothing"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "nothing"
    return visible(str(value))


def _is_about_times(check: dict[str, Any]) -> bool:
    return bool(check["kind"] == "identity" and check["path"] == ["exp"])


def _times(value: object) -> str:
    """Seconds since the epoch by their names, as times that people can read."""
    if not isinstance(value, dict):
        return _value(value)
    return ", ".join(f"{visible(str(name))}: {_time(seconds)}" for name, seconds in value.items()) or "nothing"


def _time(seconds: object) -> str:
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return _value(seconds)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):  # a year that there is not
        return _value(seconds)


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
