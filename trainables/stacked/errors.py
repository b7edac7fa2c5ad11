"""Why networks cannot be trained as one."""

from __future__ import annotations


class NotStackableError(ValueError):
    """These networks cannot be trained as one; the message is the reason, in words that go on from "because"."""
