"""Muon: an optimiser that turns the step of every matrix into one of full size in all directions.

A matrix's gradient is mostly a few directions that all clips agree on; AdamW, which scales each number by
itself, keeps it that way. Muon makes all singular values of the step alike, so that the rare directions
learn as fast as the common ones. Biases, norms, positions, the class token and the head are AdamW's, as
before.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon; the size of a step, so that AdamW's learning rates can be kept: Liu
et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2.
"""

import torch
from torch import nn


def orthogonalised(matrices, steps=5):
    """The matrices with all singular values near 1 (0.7 to 1.2), by Newton and Schulz's iteration.

    Shapes: (n, rows, columns) -> the same. Products only, no decomposition.
    """
    flat = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = flat.shape[1] > flat.shape[2]
    x = flat.mT if tall else flat
    for _ in range(steps):  # each singular value s becomes 3.4445 s - 4.7750 s³ + 2.0315 s⁵
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """AdamW for a model's numbers, but Muon for the matrices of its linear layers, all but the head's.

    For `fit(optimizer=Muon)`. Queries', keys' and values' matrices are three, although they lie in one.
    """

    def __init__(self, model, lr, weight_decay, momentum=0.95):
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        mine = [layer.weight for layer in linear if layer is not model.head]
        known = {id(weight) for weight in mine}
        others = [weight for weight in model.parameters() if id(weight) not in known]
        super().__init__(
            [dict(params=others), dict(params=mine)], lr, (0.9, 0.99), weight_decay=weight_decay
        )
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):
        group, alike = self.param_groups[1], {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state |= dict(step=torch.zeros(()), average=torch.zeros_like(weight))
            state["step"] += 1
            state["average"].mul_(self.momentum).add_(weight.grad)
            ahead = weight.grad + self.momentum * state["average"]  # Nesterov's
            rows, columns = weight.shape
            parts = 3 if rows == 3 * columns else 1
            for old, new in zip(weight.chunk(parts), ahead.chunk(parts)):
                alike.setdefault(new.shape, []).append((old, new))
            weight.grad = None  # so that AdamW passes it over
        for shape, pairs in alike.items():  # matrices of one shape in one go
            # so large that their numbers are about those of AdamW's steps
            size = 0.2 * max(shape) ** 0.5
            moves = orthogonalised(torch.stack([new for _, new in pairs]))
            for (old, _), move in zip(pairs, moves):
                old.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * size * move)
        return super().step(closure)
