from __future__ import annotations

from penstock.clients import ga4, klaviyo, meta_ads, slack
from penstock.core.errors import CATALOGUE


def test_error_tables_use_codes_of_the_catalogue_only() -> None:
    rules = (*meta_ads.RULES, *ga4.RULES, *klaviyo.RULES)
    assert {rule.code for rule in rules} | set(slack.CODES.values()) <= set(CATALOGUE)
