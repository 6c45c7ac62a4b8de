"""The generated parts of ``policies/README.md`` and ``deploy/README.md``: tables made from the models themselves.

Each part stands in its page between ``<!-- generated: NAME -->`` and ``<!-- end -->``. To write them anew:
``python -m tests.docs.reference --write``. Without ``--write``, says which pages are stale.
"""

import logging
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway import settings
from gateway.identity.presets.common import RESERVED_AUDIENCES
from gateway.kinds import PRESETS
from gateway.model import ClaimPath, GrantType, Preset
from gateway.oauth.errors import Refusal, oauth_error
from gateway.oauth.reasons import REASONS, Reason
from gateway.policy import documents
from gateway.policy.documents import KINDS, duration_text
from gateway.policy.lint.base import LintRule, choice_text
from gateway.policy.lint.catalogue import RULES
from gateway.policy.lint.platforms import AWS, BY_URL, GITHUB, GITLAB, KUBERNETES, Choice, Platform
from tests.docs import limits
from tests.docs.live import Family, metric_families
from tests.docs.markdown import ROOT, anchor

PAGES = (ROOT / "policies" / "README.md", ROOT / "policies" / "lint.md", ROOT / "deploy" / "README.md")
COMMAND = "python -m tests.docs.reference --write"

_BEGIN = "<!-- generated: "
_PART = re.compile(rf"({_BEGIN}(?P<name>[^\n>]+?) -->\n)(?:(?!{_BEGIN}).)*?(<!-- end -->)", re.DOTALL)
_DEFAULT_IN_WORDS = re.compile(r"\s*Default:? (?P<default>.+?)(?<!\.)(?:\.|(?=\.\.\.))(?P<more>(?:\.\.\.)?)$")


# ---------------------------------------------------------------- pages


def rendered(page: str) -> str:
    """The page with every generated part made anew. Raises ``KeyError`` for a part that nobody makes."""
    assert len(parts_in(page)) == page.count(_BEGIN), "a generated part has no end"
    return _PART.sub(lambda part: f"{part[1]}\n{parts()[part['name']]()}\n\n{part[3]}", page)


def parts_in(page: str) -> list[str]:
    """The names of the generated parts of a page."""
    return [part["name"] for part in _PART.finditer(page)]


def parts() -> Mapping[str, Callable[[], str]]:
    """Every part that can be generated, by name."""
    kinds = {f"kind {kind}": (lambda kind=kind: kind_tables(kind)) for kind in KINDS}
    return {
        **kinds,
        "presets": preset_table,
        "lint pins": lint_pins,
        "lint rules": lint_rules,
        "reserved audiences": reserved_audiences,
        "reasons": reason_table,
        "limits of policies": lambda: table(("what", "at most"), limits.POLICIES),
        "limits of the server": lambda: table(("what", "at most"), limits.SERVER),
        "settings": settings_table,
        "metrics": metrics_table,
        "alerts": alert_table,
    }


# ---------------------------------------------------------------- Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Pipes in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Text as code."""
    return f"`{text}`"


def _codes(values: Iterable[object]) -> str:
    return ", ".join(code(value) for value in values)


# ---------------------------------------------------------------- kinds of policy document

_WORDS_OF_TYPES: tuple[tuple[Any, str], ...] = (
    (documents.Name, "name"),
    (documents.Scope, "scope"),
    (documents.Audience, "audience"),
    (documents.Identifier, "identifier"),
    (documents.ClaimName, "claim name"),
    (documents.Pin, "claim"),
    (documents.Title, "one line"),
    (documents.Digest, "digest"),
    (documents.Expression, "CEL"),
    (documents.Url, "URL"),
    (documents.IssuerUrl, "URL"),
    (documents.FileName, "file"),
    (documents.Day, "date"),
    (documents.Algorithm, "algorithm"),
    (documents.TokenLifetime, "duration"),
    (documents.TokenAge, "duration"),
    (documents.Leeway, "duration"),
    (documents.KeyAge, "duration"),
    (documents.RefreshInterval, "duration"),
    (documents.AssertionLifetime, "duration"),
    (documents.RotationInterval, "duration"),
    (documents.Overlap, "duration"),
    (documents.RateLimit, "rate"),
    (settings.Address, "`host:port`"),
    (settings.Network, "network"),
    (settings.KeyStoreUrl, "URL"),
    (settings.StateUrl, "URL"),
    (settings.SinkUrl, "URL"),
    (settings.AuditKeyUrl, "URL"),
    (settings.Size, "size"),
    (settings.Duration, "duration"),
    (Path, "path"),
    (str, "text"),
    (bool, "`true` or `false`"),
    (int, "whole number"),
    (Any, "anything"),
    (dict[str, Any], "mapping"),
)
_PLURALS = {"URL": "URLs", "one line": "lines", "text": "texts", "anything": "anything", "CEL": "CEL"}


def kind_tables(kind: str) -> str:
    """The fields of one kind, and below them those of the mappings within it that no kind before it has."""
    headings = _headings()
    sections = [_fields_table(KINDS[kind])]
    for path, model in _models_within(KINDS[kind]):
        if headings[model] == (kind, path):
            sections.append(f"#### {path}\n\n{_docstring(model)}\n\n{_fields_table(model)}")
    return "\n\n".join(sections)


def _fields_table(model: type[BaseModel]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = [_field_row(name, hints[name], field) for name, field in model.model_fields.items() if name != "kind"]
    return table(("field", "type", "default", "meaning"), rows)


def _field_row(name: str, hint: Any, field: FieldInfo) -> tuple[str, str, str, str]:
    words = _type_in_words(hint)
    inner = next(_models_in(hint), None)
    if inner is not None:
        words = f"[{words}](#{anchor(_headings()[inner][1])})"
    meaning, default = _split_default(field)
    if default.startswith("`") and "duration" in words:
        default = code(duration_text(field.default))
    return code(name), words, default, meaning


def _split_default(field: FieldInfo) -> tuple[str, str]:
    """What a field means, and its default: in the words of its description where that has some."""
    description = field.description
    assert description is not None, "a field without a description"
    said = _DEFAULT_IN_WORDS.search(description)
    meaning = _DEFAULT_IN_WORDS.sub("", description).strip()
    if field.is_required():
        return meaning, "required"
    if said is not None:
        return meaning, said["default"] + said["more"]
    default = field.get_default(call_default_factory=True)
    if default is None or default in ((), {}) or isinstance(default, BaseModel):
        return meaning, ""
    return meaning, code({True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default)


def _type_in_words(hint: Any, *, plural: bool = False) -> str:
    for known, words in _WORDS_OF_TYPES:
        if known == hint:
            return _PLURALS.get(words, f"{words}s") if plural else words
    if get_origin(hint) in {Union, types.UnionType}:
        return " or ".join(_type_in_words(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(code(value) for value in get_args(hint))
    if get_origin(hint) is Annotated:
        return _type_in_words(get_args(hint)[0], plural=plural)
    if get_origin(hint) in {tuple, list}:
        return f"list of {_type_in_words(get_args(hint)[0], plural=True)}"
    if get_origin(hint) is dict:
        of, to = get_args(hint)
        return f"mapping of {_type_in_words(of, plural=True)} to {_type_in_words(to)}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "mappings" if plural else "mapping"
    raise TypeError(f"no words for the type {hint}: add some to _WORDS_OF_TYPES")


@cache
def _headings() -> Mapping[type[BaseModel], tuple[str, str]]:
    """For each mapping within a kind, where it is described: the first kind that has it, and its path there."""
    found: dict[type[BaseModel], tuple[str, str]] = {}
    for kind, document in KINDS.items():
        for path, model in _models_within(document):
            found.setdefault(model, (kind, path))
    return found


def _models_within(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every mapping within a model, outside in, with its path."""
    for name, hint in get_type_hints(model, include_extras=True).items():
        for inner in _models_in(hint):
            yield above + name, inner
            yield from _models_within(inner, f"{above}{name}.")


def _models_in(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for one in get_args(hint):
        yield from _models_in(one)


def _docstring(model: type[BaseModel]) -> str:
    assert model.__doc__ is not None
    return " ".join(model.__doc__.split())


# ---------------------------------------------------------------- presets


def preset_table() -> str:
    """What each preset fills in."""
    header = ("preset", "platform", "`url`", "algorithms", "`typ`", "longest life, age", "keys on private networks")
    facts = table(header, map(_preset_row, PRESETS.values()))
    having: dict[tuple[ClaimPath, ...], list[str]] = {}
    for preset in PRESETS.values():
        having.setdefault(preset.claims.required, []).append(preset.name)
    claims = table(
        ("preset", "claims that every token must have"),
        [(_codes(names), _codes(" > ".join(path) for path in required)) for required, names in having.items()],
    )
    return f"{facts}\n\n{claims}"


def _preset_row(preset: Preset) -> tuple[str, ...]:
    longest, oldest = preset.max_token_lifetime_seconds, preset.max_token_age_seconds
    return (
        code(preset.name),
        preset.title,
        code(preset.url) if preset.url else "required",
        _codes(preset.algorithms),
        " or ".join(code(typ) if typ else "none" for typ in sorted(preset.token_types, reverse=True)),
        ", ".join(code(duration_text(seconds)) for seconds in dict.fromkeys((longest, oldest))),
        "yes" if preset.private_network else "no",
    )


def reserved_audiences() -> str:
    """The audiences that are refused by name."""
    rows = [("every issuer", _codes(sorted(RESERVED_AUDIENCES)))]
    for preset in PRESETS.values():
        more = preset.reserved_audiences - RESERVED_AUDIENCES
        if more:
            rows.append((f"preset {code(preset.name)}, besides", _codes(sorted(more))))
    return table(("refused of", "audience"), rows)


# ---------------------------------------------------------------- lint


def lint_pins() -> str:
    """What a trust rule has to fix on each platform, at the least."""
    header = ("platform", "whose workload", "which workload", "what runs")
    presets = table(header, map(_pins_row, (KUBERNETES, GITHUB, GITLAB, AWS)))
    others = table(header, [_pins_row(platform) for _, platform in BY_URL])
    return f"{presets}\n\nPlatforms without a preset are known by the URL of their issuers:\n\n{others}"


def _pins_row(platform: Platform) -> tuple[str, ...]:
    tenant = _choices(platform.tenant) if platform.tenant else "the issuer has one tenant"
    return platform.title, tenant, _choices(platform.workload), _choices(platform.context)


def _choices(choice: Choice) -> str:
    """Alternatives as claims; they are other platforms' words, and no code of this project."""
    return _plain(choice_text(choice))


def lint_rules() -> str:
    """Every rule with why it matters and what to do."""
    header = ("rule", "severity", "finds", "why", "what to do")
    return table(header, [_lint_row(rule) for rule in RULES.values()])


def _lint_row(rule: LintRule) -> tuple[str, ...]:
    return code(rule.id), rule.severity, _plain(rule.title), _plain(rule.why), _plain(rule.fix)


def _plain(text: str) -> str:
    """A text in which Markdown sees no markup; ``table`` looks after pipes."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", text)


# ---------------------------------------------------------------- reasons


def reason_table() -> str:
    """Every reason with its OAuth error, its HTTP status and what to do."""
    header = ("reason", "stage", "`error`", "status", "what the caller is told", "what to do")
    return table(header, map(_reason_row, REASONS.values()))


def _reason_row(reason: Reason) -> tuple[str, ...]:
    errors = dict.fromkeys(oauth_error(Refusal(reason.code), grant) for grant in GrantType)
    again = f", again after {reason.retry_after_seconds} s" if reason.retry_after_seconds is not None else ""
    return (
        code(reason.code),
        reason.stage,
        " / ".join(map(code, errors)),
        f"{reason.status}{again}",
        reason.sentence,
        reason.advice,
    )


# ---------------------------------------------------------------- settings


def settings_table() -> str:
    """Every setting with its environment variable."""
    rows = [_setting_row(path) for path in settings.setting_paths()]
    return table(("setting", "environment variable", "type", "default", "meaning"), rows)


def _setting_row(path: tuple[str, ...]) -> tuple[str, ...]:
    hint, field, above = _setting(path)
    meaning, default = _split_default(field)
    if default == "required" and above is not None and not above.is_required():
        default = f"required in {code(path[0])}"
    words = _type_in_words(hint)
    if default.startswith("`") and words == "duration" and isinstance(field.default, int):
        default = code(duration_text(field.default))
    if isinstance(listed := field.get_default(call_default_factory=True), list):
        default = _codes(listed)
    return code(".".join(path)), code(settings.variable(path)), words, default, meaning


def _setting(path: tuple[str, ...]) -> tuple[Any, FieldInfo, FieldInfo | None]:
    """The type and the field of a setting, and the field of the section that it is in."""
    model: type[BaseModel] = settings.Settings
    above = None
    for name in path[:-1]:
        above = model.model_fields[name]
        model = next(_models_in(get_type_hints(model, include_extras=True)[name]))
    return get_type_hints(model, include_extras=True)[path[-1]], model.model_fields[path[-1]], above


# ---------------------------------------------------------------- metrics


def metrics_table() -> str:
    """Every metric of the gateway's own, as a running gateway tells Prometheus."""
    own = [family for family in metric_families() if family.name.startswith("gateway_")]
    return table(("metric", "type", "labels", "meaning"), map(_metric_row, own))


def _metric_row(family: Family) -> tuple[str, ...]:
    return code(family.exposed_name), family.kind, _codes(family.labels), family.help


# ---------------------------------------------------------------- alerts

_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
_VALUE = re.compile(r"\{\{ \$value[^}]*\}\}")


def alert_table() -> str:
    """Every alert of the sample rules."""
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    return table(("alert", "severity", "for", "says"), map(_alert_row, group["rules"]))


def _alert_row(rule: Mapping[str, Any]) -> tuple[str, ...]:
    says = _VALUE.sub("...", _LABEL.sub(r"*\1*", rule["annotations"]["summary"]))
    return rule["alert"], rule["labels"]["severity"], code(rule["for"]) if "for" in rule else "", says


# ---------------------------------------------------------------- the command


def main(arguments: Sequence[str]) -> int:
    """Writes the pages, or says which are stale. Returns the exit code."""
    logging.basicConfig(level=logging.ERROR)
    stale = []
    for page in PAGES:
        text = page.read_text()
        fresh = rendered(text)
        if fresh == text:
            continue
        stale.append(page.relative_to(ROOT))
        if "--write" in arguments:
            page.write_text(fresh)
    for name in stale:
        sys.stdout.write(f"{name}: {'written' if '--write' in arguments else f'stale; run: {COMMAND}'}\n")
    return 1 if stale and "--write" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
