"""The vendors' APIs as one local server: authenticate, page, rate-limit, restate and fail as the real ones do.

Run `python -m sandbox --help`. This package imports nothing of Penstock, so that a misunderstanding of a
vendor cannot be mirrored on both sides.
"""
