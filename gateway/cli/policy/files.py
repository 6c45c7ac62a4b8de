"""Which policy files a command is about, and their generation: the same options for every command of the group."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from gateway.policy.generation import Generation
    from gateway.policy.isolation import InForce
    from gateway.settings import Settings

DEFAULT_GATEWAY_ISSUER = "https://sts.example.com"

PoliciesOption = typer.Option(
    None, "--policies", "-p", help="Folder of policy files. Default: that of the settings, or policies/."
)
GatewayIssuerOption = typer.Option(
    DEFAULT_GATEWAY_ISSUER,
    show_default=f"that of the settings, or {DEFAULT_GATEWAY_ISSUER}",
    help="With --policies: the gateway's issuer URL, which tokens have as their audience.",
)
OutputOption = typer.Option("text", "--output", "-o", help="text or json.")


class PolicyFiles(NamedTuple):
    """A folder (or file) of policies, and what its generation depends on beside it."""

    folder: Path
    gateway_issuer: str
    insecure_http: bool

    def generation(self, *, keep_tests: bool = False) -> "Generation":
        """The generation of the files. Raises ``PolicyProblems``."""
        from gateway.identity.presets.common import is_reserved_audience
        from gateway.kinds import PRESETS
        from gateway.policy.loading import load_policies

        return load_policies(
            self.folder,
            presets=PRESETS,
            gateway_issuer=self.gateway_issuer,
            insecure_http=self.insecure_http,
            number=1,
            is_reserved_audience=is_reserved_audience,
            keep_tests=keep_tests,
        )

    def by_folder(self) -> "InForce":
        """What a gateway starts with that isolates folders. Raises ``PolicyProblems`` where it would not start."""
        from gateway.identity.presets.common import is_reserved_audience
        from gateway.kinds import PRESETS
        from gateway.policy.loading import load_policies_by_folder

        return load_policies_by_folder(
            self.folder,
            presets=PRESETS,
            gateway_issuer=self.gateway_issuer,
            insecure_http=self.insecure_http,
            number=1,
            is_reserved_audience=is_reserved_audience,
        )


def generation_of(settings: "Settings", *, insecure_http: bool) -> "Generation":
    """The generation that a gateway with these settings starts with. Raises ``PolicyProblems``."""
    files = PolicyFiles(settings.policies, settings.issuer, insecure_http)
    return files.by_folder().generation if settings.isolation == "per_folder" else files.generation()


def policy_files(config: Path | None, policies: Path | None, gateway_issuer: str, insecure_http: bool) -> PolicyFiles:
    """The files that the options name: ``--policies``, else the folder of the settings, else ``policies/``.

    A folder that is named is that of the gateway whose settings are named or lie here, unless ``gateway_issuer`` says
    otherwise. Raises ``ConfigurationProblems`` where the settings cannot be read.
    """
    from gateway.settings import DEFAULT_FILE, load_settings

    here = Path("policies")
    if policies is None and config is None and not Path(DEFAULT_FILE).exists() and here.is_dir():
        policies = here
    if policies is not None:
        if gateway_issuer == DEFAULT_GATEWAY_ISSUER:
            gateway_issuer = _issuer_of_settings(config, insecure_http) or gateway_issuer
        return PolicyFiles(policies, gateway_issuer, insecure_http)
    settings = load_settings(config, insecure_http=insecure_http)
    return PolicyFiles(settings.policies, settings.issuer, insecure_http)


def _issuer_of_settings(config: Path | None, insecure_http: bool) -> str | None:
    """The issuer of the settings that are named, or of those that lie here and can be read."""
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import DEFAULT_FILE, load_settings

    if config is None and not Path(DEFAULT_FILE).exists():
        return None
    try:
        return load_settings(config, insecure_http=insecure_http).issuer
    except ConfigurationProblems:
        if config is not None:
            raise
        return None  # they are not what was asked about
