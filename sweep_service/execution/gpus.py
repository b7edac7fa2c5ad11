"""Which of the GPUs that a trainer sees are those that Ray has given a pack."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_indices(ids: Sequence[str], visible: str | None) -> list[int]:
    """What torch calls the GPUs of those ids in a process in whose environment these are visible.

    Torch counts what is visible. Ray names a GPU as that list does, by a number or by a UUID; where there is no list,
    by the number that torch calls it too.

    Raises:
        LookupError: one of them is not visible here.
    """
    if not visible:  # nothing is listed, or nothing is visible: then Ray only counts, and no index is right or wrong
        return [int(one) for one in ids]
    listed = [one.strip() for one in visible.split(",")]
    missing = [one for one in ids if one not in listed]
    if missing:
        raise LookupError(f"A pack was given GPU {', '.join(missing)}, which {VISIBLE}={visible} does not show here.")
    return [listed.index(one) for one in ids]


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
