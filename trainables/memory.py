"""How much memory there is to be had."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Memory that a process could still take: of the GPU, or of this machine and the container around it. None: this
    system does not say.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    known = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _of_container() -> int | None:
    """By control groups, version 2: what is left below the limit, if there is one."""
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        if most == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text()) - _forgettable()
        return min(int(most), max(0, int(most) - used))
    except (OSError, ValueError):
        return None


def _forgettable() -> int:
    """What of the memory in use are files that were read a while ago: the kernel drops them before it runs short."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
