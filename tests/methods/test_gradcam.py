"""Grad-CAM against what it is for a network whose gradients are known."""

import numpy as np
import pytest
import torch
from deletion import deleted
from torch import Tensor, nn

from echolung.methods.gradcam import grad_cam


class OneByOne(nn.Module):
    """Its logits are a linear map of the layer `tissue` at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.tissue, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 4, 1)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.tissue(frames[:, None].float()))


@pytest.mark.usefixtures("one_thread")
def test_it_is_the_logits_positive_part_where_they_are_linear_in_the_layer() -> None:
    torch.manual_seed(0)
    net, x = OneByOne().eval(), np.random.default_rng(0).integers(0, 9, (20, 6, 8), dtype=np.uint8)
    found = grad_cam(net, net.tissue, x, 2)  # more frames than are held at a time
    logits = net(torch.from_numpy(x))[:, 2] - net.head.bias[2]
    np.testing.assert_allclose(found, logits.relu().detach().numpy(), atol=1e-5)
    assert found.shape == x.shape and found.min() == 0 < found.max()


def test_the_benchmark_deletes_the_highest_blocks_of_the_sector_and_nothing_else() -> None:
    frames = np.random.default_rng(0).integers(1, 255, (2, 32, 32), dtype=np.uint8)
    frames[:, :16] = 0
    score = np.zeros((2, 4, 4))
    score[:, 0] = 9.0  # outside the sector
    score[0, 3, 1] = score[1, 2, 0] = 1.0
    changed = deleted(frames, score, 1 / 8) != frames
    where = [np.argwhere(one.reshape(4, 8, 4, 8).any(axis=(1, 3))).tolist() for one in changed]
    assert where == [[[3, 1]], [[2, 0]]]
