"""Between two reports nothing waits for the device: no number is read from a tensor on the host."""

from __future__ import annotations

import pytest
import torch
from layer_problems import layer_problem
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.catalog import BALANCERS
from trainables.engine.lane import LaneTraining
from trainables.protocol import Lane

READS_ON_THE_HOST = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "cpu"}
CALLS_A_SOLVER = {"cagrad", "upgrad", "mgda", "pcgrad", "imtl_g"}


class Reads(TorchFunctionMode):
    """Notes every call that brings a tensor's content to the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS_ON_THE_HOST:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class ScalarReads(TorchDispatchMode):
    """The same one level below, where torch's own Python code is seen too."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def reads_of_a_report(balancer, steps, **params):
    values = {"steps": 1000, "batch_size": 16, "report_every": steps, "checkpoint_every": 1000, **params}
    lane = Lane(key="a", balancer=balancer, params=values)
    training = LaneTraining(layer_problem("Linear", 3), lane, torch.device("cpu"))
    training.advance()  # the first steps may look around; none after them may
    with Reads() as calls, ScalarReads() as scalars:
        training.advance()
    return len(calls.found), len(scalars.found)


@pytest.mark.parametrize("values", [{}, {"micro_batches": 3}, {"clip_norm": 1.0}, {"autocast": "bfloat16"}], ids=str)
@pytest.mark.parametrize("balancer", [name for name in BALANCERS if name not in CALLS_A_SOLVER])
def test_more_steps_between_two_reports_read_no_more(balancer, values):
    few, many = (reads_of_a_report(balancer, steps, **values) for steps in (2, 12))
    assert few == many
    assert few[0] > 0, "a report reads its metrics: the count counts nothing"
