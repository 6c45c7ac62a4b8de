"""``gateway policy schema``: the JSON Schema of policy files, for editors."""

import json

import typer


def schema(
    kind: str | None = typer.Option(None, "--kind", metavar="KIND", help="Only of this kind of document."),
) -> None:
    """Print the JSON Schema of policy files.

    Editors complete, explain and check with it. Write it beside the files, and name it on the first line of each:

        gateway policy schema > policies/schema.json
        sed -i '1i # yaml-language-server: $schema=schema.json' policies/team.yaml
        gateway policy schema --kind ServiceAccount

    What needs more than one document (references) or more than its form (globs, CEL) is for `gateway check`.
    """
    from gateway.kinds import PRESETS
    from gateway.policy.schema import json_schema

    try:
        made = json_schema(PRESETS, kind)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--kind") from None
    print(json.dumps(made, indent=2, ensure_ascii=False))
