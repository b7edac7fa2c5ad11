from __future__ import annotations

import gc

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _what_was_there_before_is_not_searched_for_garbage():
    """The engines collect it whenever a lane ends, which takes the longer the more a process has imported."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="package")
def _garbage_is_found_again():
    yield
    gc.unfreeze()
    gc.collect()
