"""The generated parts of the pages are what the code says now."""

import pytest

from tests.docs.markdown import name_of
from tests.docs.reference import COMMAND, PAGES, parts, parts_in, rendered


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_generated_parts_are_what_the_code_says(page):
    text = page.read_text()
    assert rendered(text) == text, f"{name_of(page)} is stale; run: {COMMAND}"


def test_every_part_that_can_be_generated_stands_on_one_page():
    assert sorted(name for page in PAGES for name in parts_in(page.read_text())) == sorted(parts())
