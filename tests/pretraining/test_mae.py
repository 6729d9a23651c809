"""Masked reconstruction: tubes, and the loss against a naive loop over hidden tubelets."""

import numpy as np
import pytest
import torch

from echolung.models.vit import VideoViT
from echolung.pretraining.mae import EPSILON, Mae, MaeSettings
from echolung.pretraining.masking import sample_tubes

torch.set_num_threads(1)

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=32, frames=4, clip_fps=8.0, patch=8)
SETTINGS = MaeSettings(decoder_width=24, decoder_depth=1, decoder_heads=2)


@pytest.mark.parametrize(("visible", "shown"), [(0.2, 3), (0.5, 8), (0.01, 1), (0.99, 15)])
def test_the_same_positions_are_visible_in_every_frame_and_as_many_in_every_clip(visible: float, shown: int) -> None:
    mask = sample_tubes(visible, 50, (3, 4, 4), torch.Generator().manual_seed(0)).unflatten(1, (3, 16))
    assert (mask == mask[:, :1]).all()
    assert (mask.sum(dim=2) == shown).all()
    even = mask[:, 0].float().mean(dim=0)
    assert even.std() < 0.15 and len(torch.unique(mask[:, 0], dim=0)) > min(shown, 16 - shown, 5)


def test_loss_is_the_squared_error_of_the_normalised_pixels_of_hidden_tubelets() -> None:
    mae = Mae(ENCODER, SETTINGS, seed=0, steps=10)
    clips = torch.randint(0, 256, (5, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    clips[0, :, :8, :8] = 0  # a black corner is a tubelet without contrast
    mask = mae.draw(5, torch.Generator().manual_seed(1))
    pixels = mae.encoder.pixels(clips)
    errors = []
    for clip in range(5):
        one = mask[[clip]]
        predicted = iter(mae.decoder(mae.encoder(pixels[[clip]], one), one, 0))
        for token in range(32):
            time, row, column = token // 16, token % 16 // 4, token % 4
            if not mask[clip, token]:
                cut = pixels[clip, 0, 2 * time : 2 * time + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                target = cut.flatten() - cut.mean()
                target = target / (cut.var(correction=0) + EPSILON).sqrt()
                errors.append(float((next(predicted) - target).square().mean().detach()))
    loss, diagnostics = mae(clips, mask, slice(0, 5))
    assert float(loss.detach()) == pytest.approx(np.mean(errors), rel=1e-4)
    assert diagnostics == {} and mae.handed_on is mae.encoder
