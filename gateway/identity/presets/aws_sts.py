"""AWS outbound identity federation: what sts:GetWebIdentityToken answers. Each account has an issuer of its own."""

from gateway.model import ClaimTable, Preset

PRESET = Preset(
    name="aws-sts",
    title="AWS STS web identity",
    url=None,
    url_pattern=r"https://[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tokens\.sts\.global\.api\.aws",
    algorithms=("RS256", "ES384"),
    claims=ClaimTable(required=(("https://sts.amazonaws.com/", "aws_account"),), optional=frozenset()),
    sample={
        "iss": "https://3f0c6a1e-8f3b-4c55-9a1d-0a1b2c3d4e5f.tokens.sts.global.api.aws",
        "aud": "https://sts.orchard.example",
        "sub": "arn:aws:iam::123456789012:role/services/invoicer",
        "iat": 1793610000,
        "exp": 1793610300,
        "jti": "7b0f9f63-9b7a-4a7e-8d2f-3f1f5b0a9c11",
        "https://sts.amazonaws.com/": {
            "aws_account": "123456789012",
            "source_region": "eu-north-1",
            "org_id": "o-a1b2c3d4e5",
            "ou_path": ["o-a1b2c3d4e5/r-ab12/ou-ab12-11111111/"],
            "principal_id": "arn:aws:iam::123456789012:role/services/invoicer",
            "principal_tags": {
                "team": "billing",
                "kubernetes-namespace": "billing",
                "kubernetes-service-account": "invoicer",
            },
            "original_session_exp": "2026-11-02T09:40:00Z",
            "lambda_source_function_arn": "arn:aws:lambda:eu-north-1:123456789012:function:invoicer",
            "request_tags": {"purpose": "nightly-export"},
        },
    },
    # The ARN of a role or user, never that of a session.
    subject_pattern=r"arn:aws[a-z-]*:iam::[0-9]{12}:(?:root|(?:role|user)/[\x21-\x7e]{1,219})",
    max_token_lifetime_seconds=3600,
    max_token_age_seconds=3600,
    reserved_audiences=frozenset({"sts.amazonaws.com"}),
)
