"""Why networks cannot be trained as one."""

from __future__ import annotations


class NotStackableError(ValueError):
    """These networks cannot be trained as one; the message is the reason, in words that go on from "because"."""


class FailedTogetherError(RuntimeError):
    """A step of several networks failed, and nobody can tell of which; the message says how."""
