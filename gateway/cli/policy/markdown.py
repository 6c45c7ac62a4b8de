"""Text of others in Markdown: shown as it is, so that it marks up nothing, links nowhere and calls nobody."""

import re

from gateway.policy.problems import visible

_BACKTICKS = re.compile(r"`+")


def code(text: str, limit: int = 2000) -> str:
    """A text as a code span, in which GitHub and GitLab see no markup, no HTML, no link, no issue and no mention.

    At most so many characters of it.
    """
    shown = visible(text)
    if len(shown) > limit:
        shown = shown[: limit - 3] + "..."
    if not shown.strip():
        return "(blank)"
    longest = max((len(run) for run in _BACKTICKS.findall(shown)), default=0)
    fence = "`" * (longest + 1)
    blank = " " if longest or shown != shown.strip() else ""
    return f"{fence}{blank}{shown}{blank}{fence}"
