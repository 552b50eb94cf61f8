from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from penstock.core.errors import ConfigurationError
from penstock.jobs.nivoda_ingestion.settings import Settings


@pytest.mark.parametrize(
    ("given", "markup"), [("1.35", "1.35"), (2, "2"), ("9.9999", "9.9999"), ("", "1"), (None, "1")]
)
def test_a_markup_is_a_factor(given: Any, markup: str) -> None:
    assert Settings.from_extra({"markup": given}).markup == Decimal(markup)


@pytest.mark.parametrize("given", ["10", "0", "-1", "35 %", "nan", "Infinity"])
def test_a_markup_that_no_column_holds_is_refused_before_anything_is_read(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CONFIG_INVALID.*(markup|nivoda)"):
        Settings.from_extra({"markup": given})
