"""Where the workload's own token comes from."""

import asyncio

import jwt
import pytest
from aiohttp import web

from gateway.client import (
    EnvironmentToken,
    FileToken,
    GitHubActionsToken,
    LiteralToken,
    Misuse,
    NoWorkloadToken,
    Unavailable,
    UntrustedAnswer,
    detect,
)
from gateway.standin import GITHUB_ACTIONS, StandInIssuer, StandInServer

US = "https://sts.orchard.example"
JOB = {
    "ACTIONS_ID_TOKEN_REQUEST_URL": "https://run.example/token?api-version=2.0",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job-secret",
}


@pytest.fixture
async def github():
    issuer = StandInIssuer(GITHUB_ACTIONS, clock=lambda: 1_793_610_000.0)
    async with StandInServer(issuer):
        yield issuer


# ---------------------------------------------------------------- file


def test_a_file_is_read_again_on_every_use(tmp_path):
    source = FileToken(tmp_path / "token")
    for text in ("first.token.x", "second.token.x\n"):
        source.path.write_text(text)
        assert source.fetch(US) == text.strip()


def test_a_file_that_kubernetes_swaps_by_symlink_is_followed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"{name}.token.x")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    source = FileToken(tmp_path / "token")
    assert source.fetch(US) == "one.token.x"
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert source.fetch(US) == "two.token.x"


def test_a_missing_file_tells_which_volume_to_mount(tmp_path):
    with pytest.raises(NoWorkloadToken, match=f"serviceAccountToken volume there, with audience: {US}"):
        FileToken(tmp_path / "token").fetch(US)


def test_a_folder_in_the_place_of_the_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(NoWorkloadToken, match=f"{tmp_path} cannot be read: Is a directory"):
        FileToken(tmp_path).fetch(US)


@pytest.mark.parametrize("content", [b"", b" \n", b"a b", b"\xef\xbb\xbfa.b.c", b"x" * 16385, b"a\x00b", b"{}\n{}"])
def test_a_file_without_exactly_one_token_is_refused_and_not_repeated(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(NoWorkloadToken) as caught:
        FileToken(file).fetch(US)
    assert len(str(caught.value)) < 300


# ---------------------------------------------------------------- environment variable


def test_a_variable_holds_the_token_of_a_gitlab_job():
    assert EnvironmentToken("ID", {"ID": "a.b.c\n"}).fetch(US) == "a.b.c"


def test_a_missing_variable_tells_what_to_write_into_the_job():
    with pytest.raises(NoWorkloadToken, match=f"id_tokens: {{ID: {{aud: {US}}}}}"):
        EnvironmentToken("ID", {}).fetch(US)


# ---------------------------------------------------------------- GitHub


async def test_github_is_asked_for_a_fresh_token_with_the_audience(github):
    source = GitHubActionsToken.from_environment(github.job_environment(), insecure_http=True)
    first, second = [await asyncio.to_thread(source.fetch, US + "?a=b&c") for _ in range(2)]
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in (first, second)]
    assert [claim["aud"] for claim in claims] == [US + "?a=b&c"] * 2
    assert claims[0]["jti"] != claims[1]["jti"]


@pytest.mark.parametrize("missing", JOB)
def test_a_github_job_without_the_permission_is_told_so(missing):
    environment = {name: value for name, value in JOB.items() if name != missing}
    with pytest.raises(NoWorkloadToken, match="permissions: id-token: write"):
        GitHubActionsToken.from_environment(environment)


async def test_a_request_token_that_github_refuses_is_no_reason_to_try_again(github):
    environment = github.job_environment() | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "expired-secret"}
    source = GitHubActionsToken.from_environment(environment, insecure_http=True)
    with pytest.raises(NoWorkloadToken, match="answered 401") as caught:
        await asyncio.to_thread(source.fetch, US)
    assert "expired-secret" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_github_in_trouble_is_worth_another_try(github, status):
    async def trouble(_request):
        return web.Response(status=status, headers={"Retry-After": "3"})

    github.instead = trouble
    source = GitHubActionsToken.from_environment(github.job_environment(), insecure_http=True)
    with pytest.raises(Unavailable) as caught:
        await asyncio.to_thread(source.fetch, US)
    assert caught.value.retry_after_seconds == 3


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"value": 5}', '{"value": ""}', '{"value": "a b"}', "[" * 99999]
)
async def test_an_answer_of_github_without_a_token_is_refused(github, text):
    async def odd(_request):
        return web.Response(text=text)

    github.instead = odd
    source = GitHubActionsToken.from_environment(github.job_environment(), insecure_http=True)
    with pytest.raises(NoWorkloadToken, match="GitHub's token endpoint"):
        await asyncio.to_thread(source.fetch, US)


async def test_the_request_token_is_not_sent_after_a_redirect(github):
    async def elsewhere(_request):
        raise web.HTTPFound("https://evil.example/")

    github.instead = elsewhere
    source = GitHubActionsToken.from_environment(github.job_environment(), insecure_http=True)
    with pytest.raises(UntrustedAnswer, match="redirects"):
        await asyncio.to_thread(source.fetch, US)


def test_the_request_token_is_not_sent_over_http():
    source = GitHubActionsToken.from_environment(JOB | {"ACTIONS_ID_TOKEN_REQUEST_URL": "http://run.example/token"})
    with pytest.raises(Misuse, match="https"):
        source.fetch(US)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a b"])
def test_a_request_token_that_would_change_the_request_is_refused_and_not_repeated(value):
    with pytest.raises(NoWorkloadToken) as caught:
        GitHubActionsToken.from_environment(JOB | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": value})
    assert value not in str(caught.value)


# ---------------------------------------------------------------- detection


@pytest.mark.parametrize(
    ("environment", "with_file", "kind"),
    [
        (JOB | {"GATEWAY_ID_TOKEN": "a.b.c"}, True, GitHubActionsToken),
        ({"GATEWAY_ID_TOKEN": "a.b.c"}, True, EnvironmentToken),
        ({}, True, FileToken),
    ],
)
def test_a_jobs_own_token_comes_before_the_file_of_its_runner(tmp_path, environment, with_file, kind):
    file = tmp_path / "token"
    if with_file:
        file.write_text("a.b.c")
    assert type(detect(environment, file=file)) is kind


@pytest.mark.parametrize(
    ("environment", "advice"),
    [
        ({}, "Looked for ACTIONS_ID_TOKEN_REQUEST_URL"),
        ({"GITHUB_ACTIONS": "true"}, "This is a GitHub job: give it permissions: id-token: write"),
        ({"GITLAB_CI": "true"}, "This is a GitLab job: give it id_tokens"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "This is a pod: mount a serviceAccountToken volume"),
    ],
)
def test_where_nothing_is_found_the_error_says_what_was_looked_for(tmp_path, environment, advice):
    with pytest.raises(NoWorkloadToken, match=advice) as caught:
        detect(environment, file=tmp_path / "token")
    assert str(tmp_path / "token") in str(caught.value)


def test_tokens_made_for_somebody_else_are_never_taken(tmp_path):
    other = tmp_path / "other"
    other.write_text("a.b.c")
    environment = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(other), "AZURE_FEDERATED_TOKEN_FILE": str(other)}
    with pytest.raises(NoWorkloadToken):
        detect(environment, file=tmp_path / "token")


def test_no_source_shows_its_secret():
    sources = [
        LiteralToken("a.secret.c"),
        EnvironmentToken("ID", {"ID": "a.secret.c"}),
        GitHubActionsToken.from_environment(JOB),
    ]
    assert "secret" not in repr(sources)
