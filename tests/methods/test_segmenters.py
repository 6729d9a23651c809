"""Networks that draw: what they learn from, the same bits after a kill, answers; Grad-CAM; what to annotate next."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from deletion import deleted
from drawn import manifest_of, outer_fold_of
from hearts_drawn import SIDE, ellipse, hearts, still_tokens
from torch import Tensor, nn

from echolung.core.errors import DataError, SettingsError
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.segmentation import SegmentationTask, measured
from echolung.methods.gradcam import grad_cam
from echolung.methods.segmentation import DecoderSettings, Light, MeanMask, Segmentation, UNetSettings
from echolung.methods.suggestion import COLUMNS, Strategy, choose, disagreement, suggest
from echolung.models.segmentation import DualAttention, UNet, augmented, dice_and_entropy, prepared
from echolung.pretraining import checkpoint

TASK = SegmentationTask.parse({"kind": "segmentation", "source": "hearts", "structures": ["left ventricle"]}, "x")
TINY = {"encoder": "tu-test_resnet", "image_size": 32, "batch": 4, "precision": "float32"}
QUICK = DecoderSettings(steps=25, batch=8, channels=8, learning_rate=1e-2)
ODD, TWIN = "new/odd", "new/twin"
Pool = tuple[Recordings, pd.DataFrame, pd.DataFrame]


def test_a_structure_that_nobody_traced_is_part_of_the_background() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 4, 8, 8, generator=random), torch.zeros(2, 8, 8, dtype=torch.long)
    labels[:, 2:6, 3:5] = 1
    known = torch.tensor([[True, True, False, False]] * 2)
    p = logits.softmax(dim=1)
    merged = torch.stack([p[:, 0] + p[:, 2] + p[:, 3], p[:, 1]], dim=1)
    entropy = -merged.gather(1, labels[:, None]).log().mean()
    inside = labels == 1
    dice = (2 * merged[:, 1][inside].sum() + 1) / (merged[:, 1].sum() + inside.sum() + 1)
    assert dice_and_entropy(logits, labels, known) == pytest.approx(float(entropy + 1 - dice), abs=1e-5)


def test_augmentation_moves_masks_with_their_frames_and_keeps_black_black() -> None:
    labels = torch.zeros(8, 48, 48, dtype=torch.long)
    labels[:, 14:34, 18:28] = 1
    frames, drawn = augmented((200 * labels).to(torch.uint8), labels, torch.Generator().manual_seed(0))
    assert (frames[drawn == 0] == 0).float().mean() > 0.97  # but for the blurred border
    agree = ((frames > 40) == (drawn == 1)).float().mean()
    assert agree > 0.98 and len({int(one.sum()) for one in drawn}) == 8
    lit = [float(one[shown == 1].float().median()) for one, shown in zip(frames, drawn, strict=True)]
    assert max(lit) - min(lit) > 20
    flat = np.full((1, 48, 48), 90, np.uint8)
    assert (prepared(flat, False, True) == flat).all(), "a bilateral filter has nothing to smooth"
    noisy = np.random.default_rng(0).integers(80, 100, (1, 48, 48), dtype=np.uint8)
    assert prepared(noisy, False, True).std() < noisy.std() < prepared(noisy, True, False).std()


@pytest.mark.parametrize("attention", ["none", "se", "cbam", "danet"])
def test_a_network_answers_for_the_middle_frame_and_is_supervised_at_every_stage(attention: str) -> None:
    torch.manual_seed(0)
    net = UNet("tu-test_resnet", 32, 4, decoder=(16, 16, 8, 8, 8), attention=attention, clip=3, sides=2)
    clips = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    told = net(clips)
    assert [tuple(one.shape) for one in told] == [(2, 4, 48, 48)] * 3
    sum(one.square().mean() for one in told).backward()
    still = {name.split(".")[0] for name, one in net.named_parameters() if one.grad is None or not one.grad.any()}
    assert still - {"net"} == ({"attention"} if attention == "danet" else set()), "its shares start at 0"
    net.eval()
    with torch.no_grad():
        whole, backwards = net(clips), net(clips.flip(1))
        other = net(torch.cat([clips[:, :2], 255 - clips[:, 2:]], dim=1))
    assert whole.shape == (2, 4, 48, 48)
    assert not torch.equal(whole, other), "it sees the frames beside the one that it draws"
    assert not torch.equal(whole, backwards), "and knows their order"


def test_attention_over_places_and_channels_is_danets() -> None:
    torch.manual_seed(0)
    part = DualAttention(16)
    part.shares.data = torch.tensor([0.3, 0.7])
    x = torch.randn(2, 16, 5, 4)
    flat = x.flatten(2)
    query, key, value = (one(x).flatten(2) for one in (part.query, part.key, part.value))
    want = flat.clone()
    for b in range(2):
        for i in range(16):  # channels that are alike are told apart: energies count from the largest
            energy = torch.stack([flat[b, i] @ flat[b, j] for j in range(16)])
            share = (energy.max() - energy).softmax(0)
            want[b, i] += 0.3 * sum(share[j] * flat[b, j] for j in range(16))
        for p in range(20):
            share = torch.stack([query[b, :, p] @ key[b, :, q] for q in range(20)]).softmax(0)
            want[b, :, p] += 0.7 * sum(share[q] * value[b, :, q] for q in range(20))
    torch.testing.assert_close(part(x).flatten(2), want)


def test_a_killed_run_goes_on_to_the_same_bits_and_the_best_look_is_kept(tmp_path: Path, monkeypatch) -> None:
    recordings = hearts(tmp_path, 12, noise=10.0)
    training, _, test = outer_fold_of(recordings.parts[0].manifest, np.zeros(12))
    settings = UNetSettings(**TINY, steps=9, validate_every=3)
    whole = Segmentation.fit(settings, TASK, recordings, training, 0, tmp_path / "whole" / "fit")
    save, looks = checkpoint.save, []

    def killed(*arguments: object) -> None:
        save(*arguments)
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Segmentation.fit(settings, TASK, recordings, training, 0, tmp_path / "cut" / "fit")
    resumed = Segmentation.fit(settings, TASK, recordings, training, 7, tmp_path / "cut" / "another fit")
    assert len(looks) == 3, "it went on after the second look"
    Segmentation.fit(settings, TASK, recordings, training[::-1], 8, tmp_path / "cut" / "fit")
    assert len(looks) == 3, "the same network on the same frames is trained once"
    pd.testing.assert_frame_equal(resumed.search(), whole.search())
    assert all(torch.equal(a, b) for a, b in zip(
        resumed.net.state_dict().values(), whole.net.state_dict().values(), strict=True))  # fmt: skip
    resumed.save(tmp_path)
    loaded = Segmentation.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(recordings, test), whole.predict(recordings, test))
    maps = loaded.explain(recordings, test[0])
    assert maps.weights.shape == (1, 2, 2, 2) and not maps.signed and "Grad-CAM" in maps.words
    assert maps.weights.min() >= 0 and maps.weights.mean() == pytest.approx(1)
    other = loaded.explain(recordings, test[1]).weights
    assert np.abs(maps.weights - other).max() > 0.01, "another recording, another map"
    np.testing.assert_array_equal(maps.drawing.labels[0], loaded.maps(recordings, test[0], np.arange(2)))
    with pytest.raises(DataError, match="has 2 frames, fewer than a clip of 3"):
        Segmentation.fit(UNetSettings(**TINY, clip=3), TASK, recordings, training, 0, tmp_path)
    with pytest.raises(SettingsError, match="no encoder 'mit_b9'"):
        Segmentation.fit(UNetSettings(encoder="mit_b9"), TASK, recordings, training, 0, tmp_path)


def test_a_light_decoder_reads_tokens_where_the_mean_mask_looks_at_nothing(tmp_path: Path) -> None:
    recordings = hearts(tmp_path, 24, noise=10.0)
    part = recordings.parts[0]
    features = still_tokens({name: part.clips.frames(name) for name in part.manifest["sample_id"]})
    both = [Recordings([Part(part.manifest, part.clips, features, masks)]) for masks in (part.masks, {})]
    training, _, test = outer_fold_of(part.manifest, np.zeros(24))
    settings = DecoderSettings(steps=60, batch=8, channels=16, learning_rate=1e-2, curve=(2, 8, 99), draws=2)
    light = Light.fit(settings, TASK, both[0], training, 0, tmp_path)
    curve = light.search()
    assert curve[["patients", "draw"]].to_numpy().tolist() == [[2, 0], [2, 1], [8, 0], [8, 1]]
    assert curve["dice"].between(0, 1).all()
    mean = MeanMask.fit(None, TASK, recordings, training, 0, tmp_path)
    dice = {one: measured(TASK, one.predict(both[0], test))[..., 0] for one in (light, mean)}
    assert dice[light].mean() > dice[mean].mean() + 0.03
    np.testing.assert_allclose(mean.maps(recordings, test[0], None)[0], mean.maps(recordings, test[1], None)[1])
    light.save(tmp_path)
    told = Light.load(tmp_path).predict(both[0], test)
    np.testing.assert_array_equal(told, light.predict(both[0], test))
    # Of a new recording, the time steps of its views are drawn; here they are the same frames.
    np.testing.assert_allclose(light.predict(both[1], test)[:, :2], told[:, :2])
    assert np.isnan(light.predict(both[1], test)[:, 2:]).all(), "nothing to score against"
    shown = light.explain(both[1], test[0])
    assert shown.weights.shape == shown.drawing.labels.shape == (1, 2, 48, 48), "a view of two time steps"
    assert (shown.weights[shown.drawing.labels == 1] > 1).mean() > 0.9, "over 1 is more likely than not"
    with pytest.raises(DataError, match=r"no frame of \d+ recordings is traced: hearts/"):
        MeanMask.fit(None, TASK, both[1], training, 0, tmp_path)


class OneByOne(nn.Module):
    """Its logits are a linear map of the layer `tissue` at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.tissue, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 4, 1)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.tissue(frames[:, None].float()))


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


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Twelve labelled hearts, eight like them without masks, and an odd one twice: larger, brighter and to one side."""
    part = hearts(tmp_path_factory.mktemp("pool"), 20, noise=10.0).parts[0]
    known, usual = list(part.manifest["sample_id"][:12]), list(part.manifest["sample_id"][12:])
    shown = {name: np.asarray(part.clips.frames(name)) for name in usual}
    random = np.random.default_rng(1)
    pixels = 100 + 10 * random.normal(size=(2, SIDE, SIDE))
    odd = pixels * np.where(ellipse(SIDE, 9, 20, 2, 12), 0.75, 1.3)
    for name in (ODD, TWIN):
        shown[name] = (odd + random.normal(size=odd.shape)).clip(1, 255).astype(np.uint8)
    bare, labelled = manifest_of(list(shown), list(shown), frames=2), part.manifest.iloc[:12].reset_index(drop=True)
    clips = HeldClips({name: (frames, 25.0) for name, frames in shown.items()})
    old = Part(labelled, part.clips, still_tokens({name: part.clips.frames(name) for name in known}), part.masks)
    return Recordings([old, Part(bare, clips, still_tokens(shown))]), labelled, bare


def asked(pool: Pool, budget: int, strategy: Strategy) -> pd.DataFrame:
    frames = {str(name): [0, 1] for name in pool[2]["sample_id"]}
    return suggest(TASK, QUICK, *pool, frames, budget, 0, strategy=strategy)[0]


def test_disagreement_is_one_minus_the_soft_dice_of_every_pair() -> None:
    p = np.random.default_rng(0).random((3, 2, 2, 5, 5)).astype(np.float32)
    for frame, told in enumerate(disagreement(p)):
        dice = [2 * (a * b).sum() / ((a * a).sum() + (b * b).sum())
                for one, other in itertools.combinations(p[:, frame].astype(float), 2)
                for a, b in zip(one, other, strict=True)]  # fmt: skip
        assert told == pytest.approx(1 - np.mean(dice))
    assert disagreement(np.repeat(p[:1], 4, axis=0)) == pytest.approx(0)
    halves = np.zeros((2, 1, 1, 4, 4), np.float32)
    halves[0, ..., :2], halves[1, ..., 2:] = 1, 1
    assert disagreement(halves) == pytest.approx(1)


def test_a_batch_is_chosen_by_worth_and_distance_to_what_is_there() -> None:
    x, known = np.array([[4.0], [4.1], [-2.0], [0.1]]), np.array([[0.0]])
    assert [at for at, _ in choose(x, known, np.ones(4), 3, spread=True)] == [1, 2, 3]
    assert choose(x, known, np.array([1.0, 1.0, 9.0, 1.0]), 1, spread=True) == [(2, 2.0)]
    assert [at for at, _ in choose(x, known, np.array([3.0, 4.0, 1.0, 2.0]), 9, spread=False)] == [1, 0, 3, 2]
    assert dict(choose(x, known, np.ones(4), 4, spread=True))[0] == pytest.approx(0.1), "from the twin before it"


@pytest.mark.parametrize("strategy", ["both", "disagreement", "k-centre"])
def test_an_unusual_heart_comes_first_and_its_twin_where_distance_is_ignored(pool: Pool, strategy: Strategy) -> None:
    table = asked(pool, 6, strategy)
    assert list(table.columns) == list(COLUMNS)
    order = list(table["sample_id"].unique())
    assert order[0] in (ODD, TWIN)
    assert ({ODD, TWIN} <= set(order[:2])) == (strategy == "disagreement")
    assert ({ODD, TWIN} <= set(order)) == (strategy == "disagreement")
    assert table["disagreement"].isna().all() == (strategy == "k-centre")


def test_only_what_has_no_masks_is_suggested_once_and_a_smaller_budget_is_its_beginning(pool: Pool) -> None:
    table = asked(pool, 99, "both")
    assert sorted(table["sample_id"].unique()) == sorted(pool[2]["sample_id"])
    assert not table.duplicated(["sample_id", "frame"]).any() and table["rank"].max() == len(pool[2])
    for _, frames in table.groupby("rank"):
        assert frames["disagreement"].is_monotonic_decreasing and frames["sample_id"].nunique() == 1
    few = asked(pool, 3, "both")
    pd.testing.assert_frame_equal(few, table[: len(few)])
    assert list(asked(pool, 99, "random")["sample_id"]) != list(table["sample_id"])
    with pytest.raises(DataError, match="no recording has masks yet"):
        suggest(TASK, QUICK, pool[0], pool[1].iloc[:0], pool[2], {}, 1, 0)
