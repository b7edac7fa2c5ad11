"""Multi-task learning as a bargaining game (Navon et al.: ICML 2022, arXiv 2202.01017).

Shapes: T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from trainables.balancers.gramian import RIDGE, Directions, GramianBalancer

# The most that 1,500 random Gramians of 1 to 10 tasks took to a decrement of 1e-9 was 29, those with dependent and
# opposite gradients; half of all took 5.
ITERATIONS = 32


def bargain(cosines_TT: Tensor) -> Tensor:
    r"""b > 0 with C b = 1/b elementwise, for a positive definite C: there f(b) = ½ b'Cb − Σ_i log b_i is smallest.

    An iteration takes the best multiple of b, which has b'Cb = T, then a damped Newton step: by step / (1 + λ) with the
    decrement λ² = −∇f · step. f is self-concordant, so that this converges from everywhere and keeps b positive
    (Nesterov, Introductory Lectures on Convex Optimization, 2004, ch. 4). As many iterations in any case: nobody waits
    for the device. The two bounds are for rounding alone, which may have made C indefinite.
    """
    num_tasks = len(cosines_TT)
    bargain_T = torch.ones_like(cosines_TT[0])
    for _ in range(ITERATIONS):
        products_T = cosines_TT @ bargain_T
        smallest = RIDGE * torch.dot(bargain_T, bargain_T)  # that b'Cb can be
        multiple = (num_tasks / torch.maximum(torch.dot(bargain_T, products_T), smallest)).sqrt()
        bargain_T = bargain_T * multiple
        inverse_T = bargain_T.reciprocal()
        gradient_T = products_T * multiple - inverse_T
        step_T, _ = torch.linalg.solve_ex(cosines_TT + torch.diag(inverse_T.square()), -gradient_T)
        decrement = (-torch.dot(gradient_T, step_T)).clamp(min=0).sqrt()
        bargain_T = torch.maximum(bargain_T + step_T / (1 + decrement), bargain_T / 10)
    return bargain_T


@dataclass(frozen=True, kw_only=True)
class NashMtl(GramianBalancer):
    r"""The Nash bargaining solution: w > 0 with G w = 1/w elementwise (paper, claim 3.1).

    So w_i g_i · Σ_j w_j g_j = 1: every task gets the same out of the step, whatever the scale of its loss is. With
    g_i · g_j = n_i C_ij n_j and b = N w this is C b = 1/b (:func:`bargain`): the scales drop out. The weights have no
    fixed sum; the combined gradient has the norm √T at the shared layer, however long the tasks' gradients are. (The
    authors' code solves for G/‖G‖ by a sequence of convex programs, and clips the trunk's gradient.)

    Where gradients cancel, no b is large enough; RIDGE then bounds it, at 10³ √T.

    The original compares the gradients of the whole trunk; this one those of the shared layer.
    """

    name = "nash_mtl"

    def balance(self, gramian_TT: Tensor, generator: Generator) -> Tensor:
        directions = Directions.of(gramian_TT)
        return bargain(directions.cosines_TT) / directions.norms_T
