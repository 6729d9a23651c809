"""What to annotate next: disagreement against a loop over pairs, and an unusual heart among usual ones."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of
from hearts_drawn import SIDE, ellipse, hearts, still_tokens

from echolung.core.errors import DataError
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.segmentation import SegmentationTask
from echolung.methods.segmentation import DecoderSettings
from echolung.methods.suggestion import COLUMNS, Strategy, choose, disagreement, suggest

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = SegmentationTask.parse({"kind": "segmentation", "source": "hearts", "structures": ["left ventricle"]}, "x")
SETTINGS = DecoderSettings(steps=25, batch=8, channels=8, learning_rate=1e-2)
ODD, TWIN = "new/odd", "new/twin"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recordings, pd.DataFrame, pd.DataFrame]:
    """Twelve labelled hearts, eight like them without masks, and an odd one twice: larger, brighter and to one side."""
    part = hearts(tmp_path_factory.mktemp("pool"), 20, noise=10.0).parts[0]
    known, usual = list(part.manifest["sample_id"][:12]), list(part.manifest["sample_id"][12:])
    shown = {name: np.asarray(part.clips.frames(name)) for name in usual}
    random = np.random.default_rng(1)
    pixels = 100 + 10 * random.normal(size=(2, SIDE, SIDE))
    odd = pixels * np.where(ellipse(SIDE, 9, 20, 2, 12), 0.75, 1.3)
    for name in (ODD, TWIN):
        shown[name] = (odd + random.normal(size=odd.shape)).clip(1, 255).astype(np.uint8)
    bare = manifest_of(list(shown), list(range(90, 90 + len(shown))), frames=2)
    clips = HeldClips({name: (frames, 25.0) for name, frames in shown.items()})
    old = np.stack([part.clips.frames(name) for name in known])
    labelled = part.manifest.iloc[:12].reset_index(drop=True)
    parts = [
        Part(labelled, part.clips, still_tokens(known, old), part.masks),
        Part(bare, clips, still_tokens(list(shown), np.stack(list(shown.values())))),
    ]
    return Recordings(parts), labelled, bare


def asked(pool: tuple[Recordings, pd.DataFrame, pd.DataFrame], budget: int, strategy: Strategy) -> pd.DataFrame:
    frames = {str(name): [0, 1] for name in pool[2]["sample_id"]}
    return suggest(TASK, SETTINGS, *pool, frames, budget, 0, strategy=strategy)[0]


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
def test_an_unusual_heart_comes_first_and_its_twin_only_where_distance_counts_for_nothing(
    pool: tuple[Recordings, pd.DataFrame, pd.DataFrame], strategy: Strategy
) -> None:
    table = asked(pool, 6, strategy)
    assert list(table.columns) == list(COLUMNS)
    order = list(table["sample_id"].unique())
    assert order[0] in (ODD, TWIN)
    assert ({ODD, TWIN} <= set(order[:2])) == (strategy == "disagreement")
    assert ({ODD, TWIN} <= set(order)) == (strategy == "disagreement")
    assert table["disagreement"].isna().all() == (strategy == "k-centre")


def test_only_what_has_no_masks_is_suggested_once_and_a_smaller_budget_is_its_beginning(
    pool: tuple[Recordings, pd.DataFrame, pd.DataFrame],
) -> None:
    table = asked(pool, 99, "both")
    assert sorted(table["sample_id"].unique()) == sorted(pool[2]["sample_id"])
    assert not table.duplicated(["sample_id", "frame"]).any() and table["rank"].max() == len(pool[2])
    for _, frames in table.groupby("rank"):
        assert frames["disagreement"].is_monotonic_decreasing and frames["sample_id"].nunique() == 1
    few = asked(pool, 3, "both")
    pd.testing.assert_frame_equal(few, table[: len(few)])
    assert list(asked(pool, 99, "random")["sample_id"]) != list(table["sample_id"])
    with pytest.raises(DataError, match="no recording has masks yet"):
        suggest(TASK, SETTINGS, pool[0], pool[1].iloc[:0], pool[2], {}, 1, 0)
