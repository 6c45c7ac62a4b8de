"""What lint makes of whole files: where it looks, what counts as fixed, and what comments silence."""

from textwrap import dedent, indent

import pytest

from tests.support.lint import findings_in, report_on

IDS = 'repository_id: "300400", repository_owner_id: "100200"'
SAFE = f"match: {{{IDS}, ref: refs/heads/main, event_name: push}}"
POD = 'match: {sub: "system:serviceaccount:billing:invoicer"}'
JOB = "claims.job_project_id"
OWNER = "claims.repository_owner_id"


def account(rule, issuer="github", scopes="[deploy:read]", name="deployer"):
    trust = indent(dedent(rule).strip(), "    ")
    head = f"kind: ServiceAccount\nname: {name}\naccess: [{{resource: deploy-api, scopes: {scopes}}}]\n"
    return f"{head}trust:\n  - issuer: {issuer}\n{trust}\n"


def serious(folder, text):
    """The ids of errors and warnings in a file, each once."""
    return sorted({one.id for one in findings_in(folder, text) if one.severity != "info"})


# ---------------------------------------------------------------- what counts as fixed


@pytest.mark.parametrize(
    "rule",
    [
        SAFE,
        f'match: {{{IDS}, event_name: push}}\nlike: {{ref: refs/heads/*}}\nwhen: claims.ref_protected == "true"',
        'when: claims.repository_id == "1" && claims.repository_owner_id == "2" && claims.event_name == "push"',
        'when: claims.repository_id in ["1"] && "2" == claims.repository_owner_id && !(claims.event_name != "push")',
        f'match: {{{IDS}}}\nwhen: \'!(claims.event_name in ["pull_request_target", "workflow_run", "issue_comment"])\'',
        'match: {sub: "repo:acme@100200/web@300400:environment:production", ref: refs/heads/main, event_name: push}',
        'match: {sub: "repo:acme@100200/web@300400:ref:refs/tags/v1"}',
        'match: {enterprise_id: "4455", repository_id: "300400", event_name: push}',
        'match: {job_workflow_ref: "a/b/.github/workflows/d.yml@main", repository_owner_id: "1", event_name: push}',
    ],
)
def test_a_safe_rule_for_github_is_let_alone_however_it_is_written(rule, tmp_path):
    assert serious(tmp_path, account(rule)) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("match: {repository: acme/web, event_name: push}", ["NAME001"]),
        ('match: {sub: "repo:acme/web:ref:refs/heads/main"}', ["NAME001", "REF001"]),
        ('match: {sub: "repo:acme/web:pull_request"}', ["NAME001", "REF006"]),
        ('match: {sub: "repo:acme/web:environment:prod", event_name: push}', ["ENV001", "NAME001"]),
        (
            'like: {sub: "repo:acme@1/web:environment:**:repository_id:300400"}\nmatch: {event_name: push}',
            ["ENV001", "NAME001", "SUB006"],
        ),
        (
            f'match: {{repository_id: "1", event_name: push}}\nwhen: "!has({OWNER}) || {OWNER} == \'1\'"',
            ["ISS005"],
        ),
        ('like: {sub: "repo:acme/*"}', ["ISS005", "PIN002", "REF001", "SUB006"]),
        ('like: {sub: "repo:acme/web*"}', ["ISS005", "PIN002", "REF001", "SUB003", "SUB006"]),
        ('like: {sub: "repo:*:ref:refs/heads/main"}', ["ISS005", "PIN002", "REF001", "SUB002", "SUB006"]),
        ('when: claims.sub.startsWith("repo:acme/web")', ["ISS005", "PIN002", "REF001", "SUB003", "SUB006"]),
        ('when: claims.repository_owner_id == "1" || claims.repository_id == "2"', ["ISS005", "PIN002", "REF001"]),
        (f"match: {{{IDS}}}", ["REF001"]),
        (f'match: {{{IDS}}}\nwhen: claims.event_name != "pull_request_target"', ["REF001"]),
        (f"match: {{{IDS}}}\nlike: {{event_name: 'p*'}}", ["REF001"]),
        (f"match: {{{IDS}, event_name: workflow_run}}", ["REF002"]),
        (f"match: {{{IDS}, event_name: push, ref_protected: true}}", ["TYP001"]),
        (f"match: {{{IDS}, event_name: push, ref_protected: yes}}", ["POL001"]),
        (f"match: {{{IDS}, event_name: push, ref: main}}", ["POL001"]),
        (f"match: {{{IDS}, event_name: push, ref: [main, refs/heads/main]}}", []),
        (f"match: {{{IDS}, event_name: Push}}", ["POL001"]),
        (f"match: {{{IDS}}}\nwhen: claims.event_name == 'Push'", ["POL001"]),
        ('match: {repository_id: acme/web, repository_owner_id: "1", event_name: push}', ["POL001"]),
        (f"match: {{{IDS}, event_name: push}}\nwhen: claims.ref_protected != false", ["TYP001"]),
    ],
)
def test_a_dangerous_rule_for_github_is_found(rule, expected, tmp_path):
    assert serious(tmp_path, account(rule)) == expected


@pytest.mark.parametrize(
    ("issuer", "rule", "expected"),
    [
        ("cluster", POD, []),
        ("cluster", 'like: {sub: "system:serviceaccount:billing:*"}', ["PIN002"]),
        ("cluster", 'like: {sub: "system:serviceaccount:*:invoicer"}', ["K8S001"]),
        ("cluster", 'like: {sub: "system:serviceaccount:pay*"}', ["K8S001"]),
        ("cluster", 'like: {sub: "system:serviceaccount:pay*:invoicer"}', ["K8S001"]),
        ("cluster", "match: {kubernetes.io: {serviceaccount: {name: invoicer}}}", ["K8S001"]),
        ("cluster", "match: {kubernetes.io: {namespace: billing, serviceaccount: {name: invoicer}}}", []),
        ("cluster", 'when: claims["kubernetes.io"].namespace == "billing"', ["PIN002"]),
        ("cluster", 'match: {sub: "system:serviceaccount:invoicer"}', ["POL001"]),
        ("cluster", 'match: {sub: "system:serviceaccount:billing:invoicer", aud: https://sts.example.com}', ["TYP003"]),
        ("gitlab", 'match: {project_id: "1", job_project_id: "1"}', []),
        ("gitlab", 'match: {project_id: "1", pipeline_source: push}', []),
        ("gitlab", 'match: {project_id: "1", pipeline_source: push, ref: main, ref_type: branch}', []),
        ("gitlab", 'match: {project_id: "1", pipeline_source: push, ref_path: main}', ["POL001"]),
        ("gitlab", "match: {project_id: acme/web, pipeline_source: push}", ["POL001"]),
        ("gitlab", 'match: {project_id: "1"}\nwhen: claims.job_project_id == claims.project_id', []),
        ("gitlab", f'match: {{project_id: "1"}}\nwhen: "!has({JOB}) || {JOB} == claims.project_id"', []),
        ("gitlab", 'match: {namespace_id: "1", pipeline_source: push}', ["PIN002"]),
        ("gitlab", "match: {project_path: acme/web, pipeline_source: push}", ["NAME001"]),
        (
            "gitlab",
            'match: {sub: "project_path:acme/web:ref_type:branch:ref:main", pipeline_source: push}',
            ["NAME001"],
        ),
        ("gitlab", 'like: {project_path: "acme/*"}\nmatch: {pipeline_source: push}', ["ISS005", "NAME001", "PIN002"]),
        ("aws", 'match: {sub: "arn:aws:iam::123456789012:role/a/b"}', []),
        ("aws", 'like: {sub: "arn:aws:iam::123456789012:role/a/b-*"}', []),
        ("aws", 'like: {sub: "arn:aws:iam::123456789012:role/**"}', ["AWS008", "PIN002"]),
        ("aws", "match: {https://sts.amazonaws.com/: {org_id: o-a1b2c3d4e5}}", ["PIN002"]),
        ("aws", 'match: {sub: "arn:aws:sts::123456789012:assumed-role/a/session"}', ["POL001"]),
        ("ci", "match: {sub: release}", []),
        ("ci", "match: {team: web}", []),
        ("ci", "like: {sub: 'spiffe://*/ns/billing'}", ["PIN002", "SUB002"]),
        ("ci", "match: {aud: https://sts.example.com}", ["PIN002", "SUB001"]),
        ("ci", "when: has(claims.sub)", ["PIN002"]),
        ("ci", "when: issuer == 'ci'", ["PIN002"]),
        ("ci", "when: issuer == 'other' && claims.sub == 'release'", ["POL001"]),
    ],
)
def test_what_a_rule_fixes_is_told_by_its_platform(issuer, rule, expected, tmp_path):
    assert serious(tmp_path, account(rule, issuer)) == expected


@pytest.mark.parametrize(
    "guardrail",
    [
        'claims.event_name in ["pull_request_target", "workflow_run", "issue_comment"]',
        '!(claims.event_name in ["push", "workflow_dispatch"])',
        'claims.event_name != "push"',
        'claims.event_name == "pull_request_target" || claims.event_name in ["workflow_run", "issue_comment"]',
    ],
)
@pytest.mark.parametrize("scope", ["issuer: github", ""])
def test_a_guardrail_on_events_holds_for_every_rule(guardrail, scope, tmp_path):
    text = account(f"match: {{{IDS}}}") + f"---\nkind: Guardrail\nname: events\n{scope}\ndeny_when: '{guardrail}'\n"
    assert "REF001" not in serious(tmp_path, text)


def test_a_guardrail_for_another_issuer_fixes_nothing(tmp_path):
    text = account(f"match: {{{IDS}}}")
    text += "---\nkind: Guardrail\nname: events\nissuer: gitlab\ndeny_when: claims.pipeline_source != 'push'\n"
    assert serious(tmp_path, text) == ["REF001"]
    text = text.replace("issuer: gitlab", "").replace("claims.pip", 'issuer == "gitlab" && claims.pip')
    assert serious(tmp_path, text) == ["REF001"]


def test_the_owner_can_be_fixed_for_all_rules_by_a_guardrail_or_by_the_issuer(tmp_path):
    rule = account('match: {repository_id: "300400", event_name: push}')
    assert serious(tmp_path, rule) == ["ISS005"]
    guardrail = '---\nkind: Guardrail\nname: ours\nissuer: github\ndeny_when: claims.repository_owner_id != "100200"\n'
    assert serious(tmp_path, rule + guardrail) == []
    issuer = "---\nkind: Issuer\nname: github\npreset: github-actions\n"
    assert serious(tmp_path, rule + issuer + "when: claims.repository_owner_id in ['100200', '100300']\n") == []
    assert serious(tmp_path, rule + issuer + "when: claims.repository_owner_id != '100300'\n") == ["ISS005"]


def test_a_rule_that_a_guardrail_always_refuses_is_dead(tmp_path):
    text = account(f"match: {{{IDS}, event_name: pull_request_target}}")
    text += (
        "---\nkind: Guardrail\nname: events\nissuer: github\ndeny_when: claims.event_name == 'pull_request_target'\n"
    )
    assert serious(tmp_path, text) == ["POL001"]


def test_a_guardrail_of_the_wrong_type_refuses_nobody_and_is_found(tmp_path):
    text = "kind: Guardrail\nname: protected\nissuer: github\ndeny_when: claims.ref_protected == false\n"
    assert serious(tmp_path, text) == ["TYP001"]


# ---------------------------------------------------------------- templates


def template(name, claims, rule='when: has(claims["kubernetes.io"].pod)', issuer="cluster"):
    for_each = "".join(f"  {placeholder}: {claim}\n" for placeholder, claim in claims.items())
    return account(rule, issuer, name=f'"{name}"').replace("access:", f"for_each:\n{for_each}access:")


NAMESPACE = {"namespace": 'claims["kubernetes.io"].namespace'}
BOTH = {**NAMESPACE, "service_account": 'claims["kubernetes.io"].serviceaccount.name'}


@pytest.mark.parametrize(
    ("name", "claims", "expected"),
    [
        ("k8s.{namespace}.{service_account}", BOTH, []),
        ("k8s-{namespace}-{service_account}", BOTH, ["TPL002"]),
        ("k8s.{service_account}.{namespace}", BOTH, ["TPL002"]),
        ("k8s.{namespace}", NAMESPACE, ["PIN002"]),
        ("k8s.{service_account}", {"service_account": BOTH["service_account"]}, ["K8S001"]),
    ],
)
def test_a_template_over_a_cluster_names_namespace_and_account(name, claims, expected, tmp_path):
    assert serious(tmp_path, template(name, claims)) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("match: {event_name: push}", ["ISS005"]),
        ('match: {repository_owner_id: "100200", event_name: push}', []),
    ],
)
def test_a_template_over_a_shared_issuer_still_fixes_the_tenant_by_value(rule, expected, tmp_path):
    text = template("gh.{repository_id}", {"repository_id": "claims.repository_id"}, rule, "github")
    assert serious(tmp_path, text) == expected


def test_a_template_that_names_tenant_and_workload_is_for_strangers_all_the_same(tmp_path):
    claims = {"owner": "claims.repository_owner_id", "repository_id": "claims.repository_id"}
    text = template("gh.{owner}.{repository_id}", claims, "match: {event_name: push}", "github")
    assert serious(tmp_path, text) == ["ISS005"]


@pytest.mark.parametrize("claim", ["claims.actor", "claims.workflow", "claims.head_ref"])
def test_a_job_does_not_choose_which_service_account_of_a_template_it_is(claim, tmp_path):
    text = template("gh.{who}", {"who": claim}, SAFE, "github")
    assert serious(tmp_path, text) == ["WF003"]


# ---------------------------------------------------------------- audiences, and regular expressions


@pytest.mark.parametrize(
    ("audience", "expected"), [("https://deploy.example.com", ["AUD002"]), ("https://sts.example.com", [])]
)
def test_tokens_that_were_made_for_an_api_are_not_for_the_gateway(audience, expected, tmp_path):
    text = f"kind: Issuer\nname: other\nurl: https://other.example.com\naudiences: [{audience}]\n---\n"
    assert serious(tmp_path, text + account("match: {sub: a}", "other")) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^production$", []),
        ("(?i)^production$", []),
        ("(?m)^production$", ["SUB005"]),  # one line of several is enough
        ("^(?im:production$|staging)$", ["SUB005"]),
    ],
)
def test_a_regular_expression_has_to_fit_the_whole_claim_and_not_one_of_its_lines(pattern, expected, tmp_path):
    text = account(f"{SAFE}\nwhen: 'claims.environment.matches(\"{pattern}\")'")
    assert serious(tmp_path, text) == expected


# ---------------------------------------------------------------- platforms that are known by their URL


@pytest.mark.parametrize(
    ("url", "rule", "expected"),
    [
        ("https://agent.buildkite.com", "match: {pipeline_id: '1'}", ["ISS005"]),
        ("https://agent.buildkite.com", "match: {organization_slug: acme, pipeline_slug: web}", ["NAME001", "NAME001"]),
        ("https://agent.buildkite.com", "match: {organization_id: o, pipeline_id: p}", []),
        (
            "https://oidc.circleci.com",
            "match: {oidc.circleci.com/ssh-rerun: false}",
            ["ISS005", "LIFE001", "LIFE001", "PIN002"],
        ),
        ("https://sts.windows.net/11111111-2222-4333-8444-555555555555", "match: {oid: a}", ["ISS003"]),
        ("https://sts.windows.net/11111111-2222-4333-8444-555555555555/", "match: {oid: a}", []),
        ("https://accounts.google.com", "match: {email: a@b.example}", ["ISS006", "NAME001", "NAME002"]),
        (
            "https://vstoken.dev.azure.com/11111111-2222-4333-8444-555555555555",
            "match: {prj_id: p, def_id: d}",
            ["AUD006"],
        ),
        ("https://oidc.vercel.com", "match: {project_id: p}", ["ISS005"]),
        ("https://oidc.vercel.com/acme", "match: {project_id: p}", ["ISS009"]),
    ],
)
def test_a_platform_without_a_preset_is_known_by_its_url(url, rule, expected, tmp_path):
    text = f"kind: Issuer\nname: other\nurl: {url}\n---\n" + account(rule, "other")
    found = [one.id for one in findings_in(tmp_path, text) if one.severity != "info"]
    assert sorted(found) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://token.actions.githubusercontent.com/acme", ["ISS009"]),
        ("https://github.example.com/_services/token", []),
        ("https://token.actions.acme.ghe.com", []),
    ],
)
def test_an_enterprises_own_github_has_one_tenant(url, expected, tmp_path):
    text = f"kind: Issuer\nname: own\npreset: github-actions\nurl: {url}\n---\n"
    assert serious(tmp_path, text + account('match: {repository_id: "1", event_name: push}', "own")) == expected


# ---------------------------------------------------------------- where it is


def test_a_finding_stands_on_the_line_of_what_it_is_about(tmp_path):
    text = account(f"name: main\nmatch:\n  {IDS.replace(', ', chr(10) + '  ')}\n  event_name: [push, workflow_run]")
    (found,) = [one for one in findings_in(tmp_path, text) if one.id == "REF002"]
    assert text.splitlines()[found.problem.line - 1].strip().startswith("event_name:")
    assert found.problem.path == ("trust", 0, "match", "event_name")


def test_a_missing_pin_stands_on_the_first_line_of_its_rule(tmp_path):
    (found,) = [one for one in findings_in(tmp_path, account(f"match: {{{IDS}}}")) if one.id == "REF001"]
    assert (found.problem.line, found.problem.path) == (5, ("trust", 0))


def test_a_condition_in_cel_is_named_as_the_place(tmp_path):
    text = account(f'match: {{{IDS}}}\nwhen: claims.event_name == "workflow_run"')
    (found,) = [one for one in findings_in(tmp_path, text) if one.id == "REF002"]
    assert found.problem.path == ("trust", 0, "when")


# ---------------------------------------------------------------- comments

DANGEROUS = account(f"match: {{{IDS}}}")
LINE = "  - issuer: github"


def test_a_comment_with_a_reason_silences_one_rule_on_one_line(tmp_path):
    for silenced in (
        DANGEROUS.replace(LINE, f"{LINE}  # lint: ignore REF001 nobody forks it"),
        DANGEROUS.replace(LINE, f"  # lint: ignore REF001 nobody forks it\n{LINE}"),
    ):
        report = report_on(tmp_path, silenced)
        assert [one.id for one in report.findings if one.problem.file.endswith("policy.yaml")] == ["DBG002"]
        assert report.silenced == 1


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# lint: ignore REF001", ["LINT001", "REF001"]),
        ("# lint: ignore REF01 typo", ["LINT002", "REF001"]),
        ("# lint: disable REF001 nobody forks it", ["LINT002", "REF001"]),
        ("# lint: ignore ENV001 not here", ["LINT003", "REF001"]),
        ("# lint: ignore ref001 in small letters", ["LINT002", "REF001"]),
    ],
)
def test_a_comment_that_silences_nothing_is_a_finding_itself(comment, expected, tmp_path):
    found = findings_in(tmp_path, DANGEROUS.replace(LINE, f"{LINE}  {comment}"))
    assert sorted(one.id for one in found if one.id != "DBG002") == expected


def test_a_comment_on_another_line_silences_nothing(tmp_path):
    text = "# lint: ignore REF001 nobody forks it\n" + DANGEROUS
    assert {one.id for one in findings_in(tmp_path, text)} >= {"REF001", "LINT003"}


def test_a_text_that_looks_like_a_comment_silences_nothing(tmp_path):
    text = DANGEROUS.replace(LINE, f"{LINE}\n    name: main").replace(
        "access:", "description: 'about # lint: ignore REF001 nobody forks it'\naccess:"
    )
    assert [one.id for one in findings_in(tmp_path, text) if one.id != "DBG002"] == ["REF001"]


def test_an_unknown_rule_is_told_with_the_nearest_one(tmp_path):
    text = DANGEROUS.replace(LINE, f"{LINE}  # lint: ignore REF01 typo")
    (found,) = [one for one in findings_in(tmp_path, text) if one.id == "LINT002"]
    assert str(found.problem).endswith("no rule is called REF01 (did you mean REF001?)")


# ---------------------------------------------------------------- bounds


def test_a_rule_with_very_many_values_and_globs_is_linted_in_no_time(tmp_path):
    values = ", ".join(f'"{number}"' for number in range(20_000))
    globs = ", ".join(f'"refs/heads/{"a" * 50}{number}*"' for number in range(300))
    text = account(
        f"match: {{repository_id: [{values}], repository_owner_id: '1', event_name: push}}\nlike: {{ref: [{globs}]}}"
    )
    assert "REF005" in serious(tmp_path, text)


def test_an_account_with_very_many_rules_is_linted_in_no_time(tmp_path):
    rule = f"  - issuer: github\n    {SAFE}\n"
    head = account(SAFE).split("trust:\n")[0]
    rules = "".join(rule.replace("300400", str(number)) for number in range(1000))
    assert serious(tmp_path, f"{head}trust:\n{rules}") == []
