"""Platform ETL: vendor pages to staging, staging to core, driven by the rows of `core_warehouse.etl_runs`.

enqueue_scheduled, enqueue_due, claim    runs.py       who reads which account, once
extract                                  extract.py    slices -> pages -> staging, resumable at the last saved page
                                         (cursors.py says where streams stand, planning.py cuts the slices, reading.py
                                         reads several, slices.py each, read_ahead.py fetches, remote_report.py waits
                                         for a vendor's report)
transform                                transform.py  staging -> core, cursor and SUCCEEDED in one transaction
finish                                   runs.py       closes what is left, says what happened
"""

from __future__ import annotations

from penstock.jobs.platform_etl.context import RunContext, RunNotComplete, RunWaiting, VendorClient
from penstock.jobs.platform_etl.extract import extract
from penstock.jobs.platform_etl.runs import claim, enqueue_due, enqueue_scheduled, finish
from penstock.jobs.platform_etl.transform import transform

__all__ = [
    "RunContext",
    "RunNotComplete",
    "RunWaiting",
    "VendorClient",
    "claim",
    "enqueue_due",
    "enqueue_scheduled",
    "extract",
    "finish",
    "transform",
]
