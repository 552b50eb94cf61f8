from __future__ import annotations

import re

from penstock.core.partition_chart import READ, SHORT, Bar, draw

BAR = re.compile(rf'width="([\d.]+)" height="\d+" fill="({READ}|{SHORT})"')


def test_each_partition_is_a_row_with_what_was_expected_and_what_was_read() -> None:
    drawing = draw(
        "natural <full>", [Bar("$0-$9", 100, 100, is_whole=True), Bar("$10+ & more", 100, 40, is_whole=False)]
    )
    assert "<title>natural &lt;full&gt;</title>" in drawing
    (whole, read), (short, missing) = BAR.findall(drawing)
    assert (read, missing) == (READ, SHORT)
    assert float(short) == 0.4 * float(whole)
    assert ">$10+ &amp; more</text>" in drawing
    assert ">40 of 100</text>" in drawing


def test_a_run_without_partitions_has_a_chart_too() -> None:
    drawing = draw("nothing", [])
    assert drawing.startswith("<svg ")
    assert drawing.endswith("</svg>")
