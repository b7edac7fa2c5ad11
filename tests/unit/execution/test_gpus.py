"""What is told where there is no GPU, and what becomes of a process whose GPU has failed."""

from __future__ import annotations

import pytest
import torch

from sweep_service.execution.gpus import is_well, why_no_cuda


@pytest.mark.parametrize("has_cuda", [True, False])
def test_packs_are_told_of_that_have_gpus_and_no_cuda(monkeypatch: pytest.MonkeyPatch, has_cuda: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert bool(why_no_cuda()) is not has_cuda


@pytest.mark.parametrize("is_asserted", [True, False])
def test_a_gpu_is_well_whose_work_has_ended_without_an_error(
    monkeypatch: pytest.MonkeyPatch, is_asserted: bool
) -> None:
    def synchronize() -> None:
        if is_asserted:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert is_well() is not is_asserted


def test_a_process_that_has_used_no_gpu_has_none_that_could_have_failed() -> None:
    assert is_well()
