"""Retention: archives and deletes what the policies say has had its time, without anybody waiting for it."""

from __future__ import annotations

from penstock.jobs.retention.policies import Homes, Order, enforce, plan, report

__all__ = ["Homes", "Order", "enforce", "plan", "report"]
