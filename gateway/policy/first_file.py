"""A first policy file for one workload of one platform: trust rule, access and tests, with comments that teach. Pure.

Each platform's ``Shape`` knows what identifies a workload there and what keeps others out; the rest is common.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.model import Preset

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@'-]*(?:[: ][A-Za-z0-9_./@'-]+)*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_COMMENT_COLUMN = 54
_AWS = "https://sts.amazonaws.com/"
POD_BOUND = 'has(claims["kubernetes.io"].pod)'
_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount"
_CLAIM = r"(?!(?:iss|sub|aud|exp|nbf|iat|jti)=)[A-Za-z0-9_./:-]{1,100}=[\x21-\x7e]{1,200}"
_PRINTABLE = r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?"

Answers = Mapping[str, str]
"""From the name of a question to its answer; unanswered optional ones are left out."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that has to be known of a workload. ``default`` is None where there must be an answer, and empty where
    there may be none.
    """

    name: str
    """Also that of the command's option."""
    asks: str
    pattern: str
    wanted: str
    """What the pattern wants: completes "this is not ..."."""
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Denial:
    """A workload that comes close and must get nothing: its claims beside those of the one that is meant."""

    name: str
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a trust rule for a workload says, and what tests prove of it."""

    suggested_name: str
    match: Mapping[str, Any]
    comments: Mapping[str, str]
    """For keys of ``match``."""
    claims: Mapping[str, Any]
    """What is different in the preset's sample token."""
    denials: Sequence[Denial]
    allowed: str
    """The name of the test of the workload itself."""
    pod_bound: bool = False
    """Whether only the tokens of pods are to be accepted, as the issuer's ``when``, or else the rule's, says."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What is asked about a workload of a platform, and what is made of the answers."""

    issuer_name: str
    advice: str
    """What whoever reads the file should know, at most two lines."""
    workload: tuple[Question, ...]
    context: tuple[Question, ...]
    shape: Callable[[Answers], Shape]
    where_iss_stands: str = ""
    """Where to read the iss of its tokens; empty where all of the platform has one."""

    @property
    def questions(self) -> tuple[Question, ...]:
        """All of them."""
        return (*self.workload, *self.context)


@dataclass(frozen=True, slots=True)
class FirstFile:
    """All that goes into the file. An issuer or a resource that is there already is only referred to."""

    platform: Platform
    preset: Preset
    shape: Shape
    name: str
    issuer: str
    resource: str
    scopes: tuple[str, ...]
    issuer_url: str | None = None
    """Of an issuer that the file adds; None where it is there."""
    identifier: str | None = None
    """Of a resource that the file adds; None where it is there."""
    owner: str | None = None
    rule_when: str | None = None
    schema: str = "schema.json"
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By the name of a denial: the reason that is expected, where it is not ``no_matching_trust``."""

    def text(self) -> str:
        """The file."""
        return "\n".join(line.rstrip() for line in self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# yaml-language-server: $schema={self.schema}"
        yield from (f"# {line}" for line in self.platform.advice.splitlines())
        if self.issuer_url is not None:
            yield "---"
            yield from self._issuer_lines(self.issuer_url)
        if self.identifier is not None:
            yield "---"
            yield from self._resource_lines(self.identifier)
        yield "---"
        yield from self._account_lines()

    def _issuer_lines(self, url: str) -> Iterator[str]:
        yield "kind: Issuer"
        yield f"name: {scalar(self.issuer)}"
        yield _commented(f"preset: {self.preset.name}", "fills in what is true of every token of the platform")
        if url != self.preset.url:
            yield _commented(f"url: {scalar(url)}", "the iss of its tokens, byte for byte")
        if re.match(r"https://kubernetes\.default(?:[.:/]|$)", url):
            yield _commented("keys:", "of the cluster that the gateway runs in")
            yield "  jwks_uri: https://kubernetes.default.svc/openid/v1/jwks"
            yield f"  ca_file: {_IN_CLUSTER}/ca.crt"
            yield f"  bearer_token_file: {_IN_CLUSTER}/token"
        if self.shape.pod_bound and self.rule_when is None:
            yield _commented(f"when: {POD_BOUND}", "a pod's token; not one of kubectl create token")

    def _resource_lines(self, identifier: str) -> Iterator[str]:
        yield "kind: Resource"
        yield f"name: {scalar(self.resource)}"
        yield _commented(f"identifier: {scalar(identifier)}", "becomes the aud of access tokens")
        yield _commented("scopes:", "what each of them lets its holder do")
        for scope in self.scopes:
            yield f"  {scalar(scope)}: {scalar(scope.rpartition(':')[2].capitalize())}"
        yield _commented("token_lifetime: 15m", "the longest life of a token for it")

    def _account_lines(self) -> Iterator[str]:
        yield "kind: ServiceAccount"
        yield _commented(f"name: {scalar(self.name)}", "the client_id, and the sub of access tokens")
        yield f"owner: {scalar(self.owner)}" if self.owner is not None else "# owner: whom to ask about it"
        yield _commented("access:", "what it may ask for, and no more")
        yield f"  - resource: {scalar(self.resource)}"
        yield f"    scopes: {_flow(self.scopes)}"
        yield _commented("trust:", "who may become it: all of this must hold")
        yield f"  - issuer: {scalar(self.issuer)}"
        yield "    match:"
        yield from _block(self.shape.match, 6, self.shape.comments)
        if self.rule_when is not None:
            yield _commented(f"    when: {self.rule_when}", "a pod's token; not one of kubectl create token")
        yield _commented("tests:", "played at every load: all must pass")
        yield from self._test_lines(self.shape.allowed, self.shape.claims, f"{{allow: {_flow(self.scopes)}}}")
        for denial in self.shape.denials:
            claims = _merged(self.shape.claims, denial.claims)
            reason = self.reasons.get(denial.name, "no_matching_trust")
            yield from self._test_lines(denial.name, claims, f"{{deny: {reason}}}")

    def _test_lines(self, name: str, claims: Mapping[str, Any], expect: str) -> Iterator[str]:
        yield f"  - name: {scalar(name)}"
        yield f"    issuer: {scalar(self.issuer)}"
        yield f"    like_preset: {self.preset.name}"
        if claims:
            yield "    claims:"
            yield from _block(claims, 6, {})
        yield f"    expect: {expect}"


def scalar(text: str) -> str:
    """A printable text as YAML that no parser reads as anything else: plain where it is a word, or else in quotes.

    Raises ``ValueError`` for a text that is not printable.
    """
    if not text.isprintable():
        raise ValueError("holds characters that cannot be shown")
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


# ---------------------------------------------------------------- platforms


def _kubernetes(answers: Answers) -> Shape:
    namespace, account = answers["namespace"], answers["account"]

    def claims(namespace: str, account: str) -> dict[str, Any]:
        return {
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account}},
        }

    return Shape(
        suggested_name=account if account != "default" else namespace,
        match={"sub": f"system:serviceaccount:{namespace}:{account}"},
        comments={"sub": "namespace and account, whole"},
        claims=claims(namespace, account),
        denials=(
            Denial("the same account in another namespace may not", claims(f"{namespace[:50]}-other", account)),
            Denial("another account of the namespace may not", claims(namespace, f"{account[:200]}-other")),
            *(
                [Denial("a token of kubectl create token may not", {"kubernetes.io": {"pod": None, "node": None}})]
                if answers["tokens"] == "pods"
                else []
            ),
        ),
        allowed="its pods may",
        pod_bound=answers["tokens"] == "pods",
    )


def _github_actions(answers: Answers) -> Shape:
    owner, _, name = answers["repository"].partition("/")
    repository_id, owner_id, branch = answers["repository-id"], answers["owner-id"], answers["branch"]
    environment = answers.get("environment")
    return Shape(
        suggested_name=_as_name(name),
        match={
            "repository_id": repository_id,
            "repository_owner_id": owner_id,
            "event_name": ["push", "workflow_dispatch"],
            "ref": f"refs/heads/{branch}",
            "ref_type": "branch",
            **({"environment": environment} if environment is not None else {"ref_protected": "true"}),
        },
        comments={
            "repository_id": f"{answers['repository']}: names can be taken over by others, ids cannot",
            "repository_owner_id": owner,
            "event_name": "never pull_request_target: it runs on the base branch",
            "environment": "give it protection rules, or anybody who may push has it",
            "ref_protected": "so that not everybody may push there",
        },
        claims={
            "repository": answers["repository"],
            "repository_owner": owner,
            "repository_id": repository_id,
            "repository_owner_id": owner_id,
            "ref": f"refs/heads/{branch}",
            "environment": environment,
        },
        denials=(
            Denial("another repository of the owner may not", {"repository_id": f"{repository_id}0"}),
            Denial("an owner who took over the name may not", {"repository_owner_id": f"{owner_id}0"}),
            Denial("another branch may not", {"ref": f"refs/heads/{branch}-topic"}),
            Denial("a stranger's pull request may not", {"event_name": "pull_request_target"}),
            Denial("a job outside of the environment may not", {"environment": None})
            if environment is not None
            else Denial("a branch that anybody may push to may not", {"ref_protected": "false"}),
        ),
        allowed=f"a push to {branch} may",
    )


def _gitlab_ci(answers: Answers) -> Shape:
    project_id, namespace_id, branch = answers["project-id"], answers["namespace-id"], answers["branch"]
    namespace, _, name = answers["project"].rpartition("/")
    environment = answers.get("environment")
    return Shape(
        suggested_name=_as_name(name),
        match={
            "project_id": project_id,
            "namespace_id": namespace_id,
            "job_project_id": project_id,
            "pipeline_source": ["push", "schedule", "web"],
            "ref": branch,
            "ref_type": "branch",
            "ref_protected": "true",
            **({"environment": environment} if environment is not None else {}),
        },
        comments={
            "project_id": f"{answers['project']}: paths can be taken over by others, ids cannot",
            "namespace_id": namespace,
            "job_project_id": "where the job runs: not in a fork",
            "pipeline_source": "never merge_request_event: somebody else's code",
            "ref_type": "a tag may have the branch's name",
            "ref_protected": "text: keep the quotes",
            "environment": "protect it, or every job may name it",
        },
        claims={
            "project_id": project_id,
            "project_path": answers["project"],
            "namespace_id": namespace_id,
            "namespace_path": namespace,
            "job_project_id": project_id,
            "job_project_path": answers["project"],
            "ref": branch,
            "ref_path": f"refs/heads/{branch}",
            "environment": environment,
        },
        denials=(
            Denial("another project may not", {"project_id": f"{project_id}0"}),
            Denial("the project in another group may not", {"namespace_id": f"{namespace_id}0"}),
            Denial("a job that runs in a fork may not", {"job_project_id": f"{project_id}0"}),
            Denial("a merge request may not", {"pipeline_source": "merge_request_event"}),
            Denial("a tag of that name may not", {"ref_type": "tag", "ref_path": f"refs/tags/{branch}"}),
            Denial("another branch may not", {"ref": f"{branch}-topic", "ref_path": f"refs/heads/{branch}-topic"}),
            Denial("a branch that anybody may push to may not", {"ref_protected": "false"}),
            *([Denial("a job outside of the environment may not", {"environment": None})] if environment else []),
        ),
        allowed=f"a push to the protected branch {branch} may",
    )


def _aws_sts(answers: Answers) -> Shape:
    arn, function, organisation = answers["role-arn"], answers.get("function-arn"), answers.get("org-id")
    account = arn.split(":")[4]
    inner = {
        "aws_account": account,
        **({"org_id": organisation} if organisation is not None else {}),
        **({"lambda_source_function_arn": function} if function is not None else {}),
    }
    other = f"{arn}-other"
    return Shape(
        suggested_name=_as_name(arn.rpartition("/")[2]),
        match={"sub": arn, _AWS: inner},
        comments={"sub": "the role with its path, never a session", _AWS: "a nested object of the token"},
        claims={
            "sub": arn,
            _AWS: {
                "org_id": organisation,
                "lambda_source_function_arn": function,
                **inner,
                "principal_id": arn,
            },
        },
        denials=(
            Denial("another role of the account may not", {"sub": other, _AWS: {"principal_id": other}}),
            *(
                [Denial("the role outside of the function may not", {_AWS: {"lambda_source_function_arn": None}})]
                if function is not None
                else []
            ),
        ),
        allowed="the role may",
    )


def _generic(answers: Answers) -> Shape:
    subject = answers["subject"]
    claims = dict(parse_claims(answers.get("claims", "")))
    return Shape(
        suggested_name=_as_name(subject),
        match={"sub": subject, **claims},
        comments={"sub": "whole, and not of the caller's choice"},
        claims={"sub": subject, **claims},
        denials=(
            Denial("another subject may not", {"sub": f"{subject[:250]}x"}),
            *(Denial(f"another {name} may not", {name: f"{value[:250]}x"}) for name, value in claims.items()),
        ),
        allowed="the workload may",
    )


def parse_claims(text: str) -> Iterator[tuple[str, str]]:
    """``name=value`` pairs with blanks between them. What has no ``=`` is left out: the question's pattern has none."""
    for pair in text.split():
        name, is_pair, value = pair.partition("=")
        if is_pair:
            yield name, value


_BRANCH = Question(
    "branch",
    "The one branch that may",
    r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]{0,198}[A-Za-z0-9_+-])?",
    "one branch by its name, without refs/heads/ and wildcards",
    "main",
)
_ENVIRONMENT = Question(
    "environment", "The environment that the job must name, if any", _PRINTABLE, "the name of an environment", ""
)
_CLUSTER = (
    Question(
        "namespace",
        "The pod's namespace",
        r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
        "a namespace: lower-case letters, digits and dashes",
    ),
    Question(
        "account",
        "The pod's service account (serviceAccountName)",
        r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?",
        "the name of a Kubernetes service account",
    ),
)
_TOKENS = Question(
    "tokens", "Only tokens of pods, or any, such as of kubectl create token", "pods|any", "pods or any", "pods"
)
_ID = "an id, in digits"


def _cluster(issuer_name: str, advice: str) -> Platform:
    return Platform(
        issuer_name,
        advice,
        workload=_CLUSTER,
        context=(_TOKENS,),
        shape=_kubernetes,
        where_iss_stands="kubectl get --raw /.well-known/openid-configuration",
    )


_PODS = (
    "Whoever may create pods in the namespace can run as each of its accounts: the namespace is the border.\n"
    "Give the pod a projected token with the gateway's issuer as its audience."
)
PLATFORMS: Mapping[str, Platform] = {
    "kubernetes": _cluster("cluster", f"A pod in Kubernetes.\n{_PODS}"),
    "eks": _cluster("eks", f"A pod in Amazon EKS.\n{_PODS}"),
    "gke": _cluster("gke", f"A pod in Google Kubernetes Engine.\n{_PODS}"),
    "aks": _cluster("aks", f"A pod in Azure Kubernetes Service.\n{_PODS}"),
    "openshift": _cluster("openshift", f"A pod in OpenShift.\n{_PODS}"),
    "github-actions": Platform(
        "github",
        "A job of GitHub Actions. It needs the permission id-token: write. All of GitHub's ids are text: keep the\n"
        "quotes. The ids of a repository: gh api repos/OWNER/NAME --jq '.id, .owner.id'",
        workload=(
            Question(
                "repository",
                "The repository, as owner/name",
                r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}",
                "owner/name",
            ),
            Question("repository-id", "Its id (gh api repos/OWNER/NAME --jq .id)", r"[0-9]{1,19}", _ID),
            Question("owner-id", "The owner's id (gh api repos/OWNER/NAME --jq .owner.id)", r"[0-9]{1,19}", _ID),
        ),
        context=(_BRANCH, _ENVIRONMENT),
        shape=_github_actions,
    ),
    "gitlab-ci": Platform(
        "gitlab",
        "A job of GitLab CI. It names the gateway's issuer under id_tokens. Protect the branch, so that not everybody\n"
        "may push to it. GitLab writes ids and booleans as text: keep the quotes.",
        workload=(
            Question(
                "project",
                "The project, as group/name",
                r"[A-Za-z0-9_.-]{1,100}(?:/[A-Za-z0-9_.-]{1,100}){1,20}",
                "group/name",
            ),
            Question("project-id", "Its id (on the project's page)", r"[0-9]{1,19}", _ID),
            Question("namespace-id", "The group's id (on the group's page)", r"[0-9]{1,19}", _ID),
        ),
        context=(_BRANCH, _ENVIRONMENT),
        shape=_gitlab_ci,
        where_iss_stands="the instance, such as https://gitlab.com",
    ),
    "aws-sts": Platform(
        "aws",
        "A workload with an AWS role: sts:GetWebIdentityToken hands it a token with the gateway's issuer as audience.\n"
        "Never trust request_tags: the caller chooses them.",
        workload=(
            Question(
                "role-arn",
                "The role's ARN",
                r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,200}",
                "the ARN of a role: arn:aws:iam::123456789012:role/path/name",
            ),
        ),
        context=(
            Question(
                "function-arn",
                "The ARN of the only Lambda function that may, if any",
                r"arn:aws[a-z-]*:lambda:[a-z0-9-]{1,40}:[0-9]{12}:function:[A-Za-z0-9_-]{1,64}",
                "the ARN of a Lambda function, without a version",
                "",
            ),
            Question(
                "org-id", "The AWS organisation's id, if any", r"o-[a-z0-9]{10,32}", "an id such as o-a1b2c3d4e5", ""
            ),
        ),
        shape=_aws_sts,
        where_iss_stands="aws iam get-outbound-web-identity-federation-info",
    ),
    "generic": Platform(
        "platform",
        "A platform without a preset. Find out which claims a caller can choose, which names can be taken over, and\n"
        "who else gets tokens of this issuer, people included. Match ids.",
        workload=(Question("subject", "The sub of the workload's tokens", _PRINTABLE, "a whole sub"),),
        context=(
            Question(
                "claims",
                "Further claims that must have this text, as name=value with blanks between them, if any",
                rf"{_CLAIM}(?: {_CLAIM}){{0,15}}",
                "name=value, with a blank between several; iss, sub, aud and times are not among them",
                "",
            ),
        ),
        shape=_generic,
    ),
}
"""By the name of the preset."""


# ---------------------------------------------------------------- text


def _as_name(text: str) -> str:
    """A text as the name of a document, as near as that comes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "workload"


def _merged(claims: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Claims with others written over them; null stays, to take a claim out of the sample."""
    result = dict(claims)
    for name, value in other.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def _block(values: Mapping[str, Any], indent: int, comments: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        begin = " " * indent + scalar(name) + ":"
        if isinstance(value, Mapping):
            yield _commented(begin, comments.get(name, ""))
            yield from _block(value, indent + 2, {})
        else:
            written = "null" if value is None else _flow(value) if isinstance(value, list) else scalar(value)
            yield _commented(f"{begin} {written}", comments.get(name, ""))


def _flow(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(_in_flow, values)) + "]"


def _in_flow(text: str) -> str:
    return scalar(text) if "," not in text else json.dumps(text, ensure_ascii=False)


def _commented(line: str, comment: str) -> str:
    return f"{line.ljust(_COMMENT_COLUMN - 1)} # {comment}" if comment else line
