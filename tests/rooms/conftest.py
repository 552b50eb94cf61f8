"""What code under test logs stays off the screen; `stack/levels.py` says how this level runs."""

from __future__ import annotations

import logging

logging.lastResort = logging.NullHandler()
