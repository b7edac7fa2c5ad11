"""The GPUs that a trainer sees: whether they can be used."""

from __future__ import annotations

import logging
import socket

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Which GPUs a process sees, by their numbers or UUIDs; it counts these from 0 on."""


def why_no_cuda() -> str:
    """What is to be said of packs that have been given GPUs and cannot use them here; empty: they can."""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        f"On {socket.gethostname()} packs have been given GPUs, and torch finds no CUDA there: "
        f"their trials are trained on the CPU."
    )


def is_well() -> bool:
    """Whether what has been started on the GPUs has come to an end without an error. After one, such as a failed
    assertion in a kernel, nothing works on that GPU in this process any more.
    """
    import torch

    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except Exception:
        logger.exception("The GPU cannot be used by this process any more.")
        return False
    return True
