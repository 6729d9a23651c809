"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of a network that draws structures (Vinogradova et al. 2020, arXiv
2002.11434), by captum: what in a layer's output raises the sum of a structure's logits, negative parts cut off."""

import numpy as np
import torch
from torch import nn

CHUNK = 16  # frames whose activations and gradients are held at a time


def grad_cam(net: nn.Module, layer: nn.Module, x: np.ndarray, label: int) -> np.ndarray:
    """float64 (T, h, w) on the layer's grid, not negative: of a label's summed logits; x (T, ...) as `net` takes it."""
    from captum.attr import LayerGradCam  # seconds to import

    device = next((part.device for part in net.parameters()), torch.device("cpu"))
    cam = LayerGradCam(lambda frames: net(frames)[:, label].sum(dim=(1, 2)), layer)
    with torch.enable_grad():
        parts = [
            cam.attribute(torch.from_numpy(x[at : at + CHUNK]).to(device), relu_attributions=True).detach().cpu()
            for at in range(0, len(x), CHUNK)
        ]
    return torch.cat(parts)[:, 0].double().numpy()
