"""AWS outbound identity federation: what sts:GetWebIdentityToken answers. Each account has an issuer of its own."""

from gateway.model import ClaimTable, Preset

PRESET = Preset(
    name="aws-sts",
    title="AWS STS web identity",
    url=None,
    url_pattern=r"https://[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tokens\.sts\.global\.api\.aws",
    algorithms=("RS256", "ES384"),
    claims=ClaimTable(required=(("https://sts.amazonaws.com/", "aws_account"),), optional=frozenset()),
    # The ARN of a role or user, never that of a session.
    subject_pattern=r"arn:aws[a-z-]*:iam::[0-9]{12}:(?:root|(?:role|user)/[\x21-\x7e]{1,219})",
    max_token_lifetime_seconds=3600,
    max_token_age_seconds=3600,
    reserved_audiences=frozenset({"sts.amazonaws.com"}),
)
