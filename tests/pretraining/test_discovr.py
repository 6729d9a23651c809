"""Cluster distillation: every piece against a naive reference, schedules, workers, and what it refuses."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.nn.functional as F

from echolung.core.errors import SettingsError, TrialError
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining.discovr import Discovr, DiscovrSettings, Head, sinkhorn

SHAPE = {"width": 24, "depth": 2, "heads": 2, "image_size": 24, "frames": 4, "patch": 8}
ENCODER = VideoViT.Settings(**SHAPE, clip_fps=8.0, class_token=True)
SMALL: dict[str, Any] = {
    "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "prototypes": 16,
    "head_hidden": 32, "head_bottleneck": 12, "head_out": 20, "local_masks": 2, "visible": 0.3,
}  # fmt: skip
RELEASE = {"aligned": False, "centring": "probabilities", "ema": (0.99, 0.99), "centre_momentum": 0.8}
PLACES, CLIPS = 9, 4
BATCH = torch.randint(0, 256, (CLIPS, 4, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def objective(encoder: Any = ENCODER, steps: int = 10, **changes: Any) -> Discovr:
    """With teachers and centres that differ from what they start as, so that a mix-up shows."""
    made = Discovr(encoder, DiscovrSettings.parse(SMALL | changes, ""), seed=0, steps=steps)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for branch in made.each.values():
            for weight in [*branch.teacher.parameters(), *branch.teacher_head.parameters(), branch.centre]:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return made


def masks(made: Discovr) -> Any:
    return made.draw(CLIPS, torch.Generator().manual_seed(1))


def test_sinkhorn_is_the_iteration_on_the_whole_matrix_and_balances_the_prototypes() -> None:
    scores = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    for iterations in (1, 10, 200):
        q = np.exp(scores.double().numpy().T / 0.1)
        q /= q.sum()
        for _ in range(iterations):
            q /= q.sum(axis=1, keepdims=True) * len(q)
            q /= q.sum(axis=0, keepdims=True) * q.shape[1]
        shares = sinkhorn(scores, 0.1, iterations)
        np.testing.assert_allclose(shares.numpy(), q.T * q.shape[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(40))
    torch.testing.assert_close(shares.sum(dim=0), torch.full((8,), 40 / 8), rtol=1e-3, atol=0)
    extreme = torch.stack([torch.ones(6), -torch.ones(6)], dim=1)
    assert sinkhorn(extreme, 0.03, 10).isfinite().all(), "the smallest epsilon that settings allow"


def naive_head(head: Head, x: torch.Tensor) -> torch.Tensor:
    """Cosines of the last hidden layer with every direction."""
    first, _, second, _, third = head.mlp
    hidden = third(F.gelu(second(F.gelu(first(x)))))
    return torch.stack([hidden @ one / hidden.norm() / one.norm() for one in head.directions])


def cross_entropy(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """Of probabilities with logits, in float64."""
    logits = student.double()
    return -float((teacher.double() * (logits - logits.exp().sum().log())).sum())


@pytest.mark.parametrize("changes", [{}, {"branches": ("video",)}, RELEASE])
@torch.no_grad()
def test_the_loss_is_that_of_a_loop_over_clips_frames_masks_and_tokens(changes: dict[str, Any]) -> None:
    made, clips = objective(**changes), BATCH
    drawn, pixels = masks(made), made.video.student.pixels(clips)
    expected: dict[str, list[float]] = {"video": [], "image": [], "clusters": []}
    rows, targets = torch.empty(0, 24), torch.empty(0, 24)
    for clip in range(CLIPS):
        one, frame_tokens = pixels[[clip]], []
        for name, branch in made.each.items():
            frames = one.transpose(0, 2).transpose(1, 2) if name == "image" else one  # (T, 1, 1, S, S)
            for number, frame in enumerate(frames):
                whole = torch.ones(1, PLACES * (1 if name == "image" else 2), dtype=torch.bool)
                said, tokens = branch.teacher.summarised(frame[None], whole)
                frame_tokens += [tokens.view(1, -1, 24)] if name == "image" or changes.get("branches") else []
                teacher = ((naive_head(branch.teacher_head, said[0]) - branch.centre) / 0.04).softmax(0)
                for mask in getattr(drawn, name):
                    seen = mask[[clip]].view(len(frames), -1)[[number]]
                    student = naive_head(branch.head, branch.student.summarised(frame[None], seen)[0][0])
                    expected[name].append(cross_entropy(teacher, student / 0.1))
        visible = drawn.whole[clip]
        completed = made.decoder.everywhere(made.video.student(one, visible[None]), visible[None], 0)[0]
        each = torch.cat(frame_tokens, dim=1)[0].double().split(PLACES)  # mean 0 and deviation 1 in every frame
        every = torch.cat([(frame - frame.mean(dim=0)) / frame.std(dim=0) for frame in each]).float()
        if changes is RELEASE:
            completed, every = torch.cat([completed[visible], completed[~visible]]), every[::2]
        elif not changes:  # the first frame of each tubelet
            every = torch.cat([every[:PLACES], every[2 * PLACES : 3 * PLACES]])
        rows, targets = torch.cat([rows, completed]), torch.cat([targets, every])
    shares = sinkhorn(F.normalize(targets, dim=1) @ made.prototypes.T, 0.05, 10)
    for token, share in zip(rows, shares, strict=True):
        chosen = F.one_hot(share.argmax(), len(share))
        expected["clusters"].append(cross_entropy(chosen, made.prototypes @ (token / token.norm()) / 0.1))
    loss, told = made(clips, drawn, slice(0, CLIPS))
    for name, values in expected.items():
        if values:
            assert float(told[f"loss_{name}"]) == pytest.approx(np.mean(values), rel=1e-3), name
    assert float(loss) == pytest.approx(sum(np.mean(values) for values in expected.values() if values), rel=1e-3)


@pytest.mark.parametrize("centring", ["logits", "probabilities"])
def test_teachers_follow_centres_move_and_prototypes_stay_of_unit_length(centring: str) -> None:
    made = objective(steps=11, centring=centring, ema=(0.9, 1.0))
    branch, pixels = made.each["image"], made.video.student.pixels(BATCH)
    with torch.no_grad():
        logits = branch.teacher_head(branch.teacher.summarised(pixels)[0])
        mean = logits.mean(0) if centring == "logits" else ((logits - branch.centre) / 0.04).softmax(-1).mean(0)
        centre = 0.9 * branch.centre + 0.1 * mean
        of_head, old = 0.1 * branch.head.directions + 0.9 * branch.teacher_head.directions, made.handed_on.state_dict()
        expected = {name: 0.1 * made.video.student.state_dict()[name] + 0.9 * weight for name, weight in old.items()}
    loss, _ = made(BATCH, masks(made), slice(0, CLIPS))
    loss.backward()
    assert all(one.grad is not None for one in made.parameters() if one.requires_grad), "nothing is idle"
    with torch.no_grad():
        made.prototypes.mul_(3)
    assert made.after_step(0) == {"ema": 0.9}
    torch.testing.assert_close(made.prototypes.norm(dim=1), torch.ones(16))
    torch.testing.assert_close(branch.teacher_head.directions, of_head)
    for name, weight in made.handed_on.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(branch.centre, centre)


def test_schedules_reach_their_ends() -> None:
    made, short = objective(steps=101, temperature_warmup=0.2), objective(steps=200, ema=None)
    assert [made.momentum(step) for step in (0, 50, 100)] == pytest.approx([0.996, 0.998, 1.0])
    assert math.prod(short.momentum(step) for step in range(200)) < 0.01, "a run this short replaces its teachers"
    for step, temperature in {0: 0.04, 10: 0.0549, 21: 0.07, 100: 0.07}.items():
        made.done.fill_(step)
        assert float(made.teacher_temperature()) == pytest.approx(temperature, abs=1e-4)


def test_either_branch_is_handed_on_by_the_shape_of_the_encoder() -> None:
    image = ENCODER.model_copy(update={"attention": "frame", "tubelet": 1})
    ours, theirs = objective(), objective(image)
    assert ours.handed_on is ours.each["video"].teacher and theirs.handed_on is theirs.each["image"].teacher
    assert theirs.handed_on.settings == image and theirs.choices["student"] is theirs.each["image"].student
    for made in (ours, theirs):  # one training, whichever is kept
        loss, _ = made(BATCH, masks(made), slice(0, CLIPS))
        assert float(loss.detach()) == pytest.approx(float(ours(BATCH, masks(ours), slice(0, CLIPS))[0].detach()))
        judged, _ = made(BATCH, masks(made), slice(0, CLIPS), made.choices["teacher"])
        assert not torch.equal(judged, loss), "the teacher in the place of the student"
    start = ours.video.student.state_dict()
    assert all(torch.equal(weight, start[name]) for name, weight in initial_encoder(ENCODER, 0).state_dict().items())


def test_what_it_cannot_train_is_refused_and_a_collapse_is_said() -> None:
    frame = {"attention": "frame", "tubelet": 1}
    for message, change, options in (
        ("class token", {"class_token": False}, {}),
        ("which `branches` leaves out", frame, {"branches": ("video",)}),
        ("multiple of tubelet", frame | {"frames": 3}, {}),
        ("branches", {}, {"branches": ("image",)}),
    ):
        with pytest.raises(SettingsError, match=message):
            objective(ENCODER.model_copy(update=change), **options)
    with pytest.raises(SettingsError, match="tubelet must be 1"):
        VideoViT.Settings.parse(ENCODER.model_dump() | {"attention": "frame"}, "")
    made = objective()
    with torch.no_grad():
        made.prototypes.copy_(made.prototypes[:1].expand_as(made.prototypes))
    made(BATCH, masks(made), slice(0, CLIPS))
    with pytest.raises(TrialError, match="collapsed: at step 8 every token suits all 16 alike"):
        made.after_step(7)


def worker(rank: int, rendezvous: str) -> None:
    """Loss, gradients and new centres of half the clips, over both workers, are those of all clips in one."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    found = []
    for rows in (slice(0, CLIPS), slice(2 * rank, 2 * rank + 2)):
        made = objective()
        loss, _ = made(BATCH[rows], masks(made), rows)
        loss.backward()
        gradients = [one.grad for one in made.parameters() if one.requires_grad]
        found.append([loss.detach(), *gradients, *(branch.fresh for branch in made.each.values())])
    for whole, half in zip(*found, strict=True):
        torch.distributed.all_reduce(half)
        torch.testing.assert_close(half / 2, whole, atol=1e-5, rtol=1e-4)


def test_two_workers_equal_one(tmp_path: Path) -> None:
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as workers:
        list(workers.map(worker, range(2), [rendezvous] * 2))  # raises what a worker raises
