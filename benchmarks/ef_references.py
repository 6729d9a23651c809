"""Ejection fractions from CAMUS's reference masks against its 150 references: python benchmarks/ef_references.py ROOT

Bias, SD, MAE and r by official split, for axes and formulas. One offset is fitted on the training and validation
patients; test patients are reported raw and shifted. Below, the same discs on masks of drawn hearts, whose truth is
exact: what is left of the bias there is the discs' own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.data import nifti
from echolung.data.geometry import Letterbox
from echolung.data.sources.layouts import scan
from echolung.hearts.volumes import disc_volume, discs, ejection_fraction, largest, long_axis, volume
from echolung.phantom.heart import HeartVideo, beating_heart, heart_scanner

PHASES, VIEWS = ("ED", "ES"), ("A4C", "A2C")
MEASURES = (
    "biplane, principal axis",
    "biplane, reader's axis",  # from the middle of the mitral plane to the farthest point
    "biplane, area-length",  # with the shorter of both axes
    "biplane, common length",  # reader's axis, and one length for both phases, as CAMUS's own script takes it
    "A4C, principal axis",
    "A2C, principal axis",
)


def measured(maps: dict[tuple[str, str], np.ndarray], mm: dict[str, float]) -> dict[str, float]:
    """Ejection fractions by MEASURES from the label maps of (view, phase), with square pixels of `mm` per view."""
    found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for phase in PHASES:
        cut, read, area = {}, {}, {}
        for view in VIEWS:
            cavity, atrium = largest(maps[view, phase] == 1), maps[view, phase] == 3
            cut[view] = discs(cavity, mm[view])
            read[view] = discs(cavity, mm[view], axis=long_axis(cavity, atrium))
            area[view] = cavity.sum() * mm[view] ** 2
            found[f"{view}, principal axis"][phase] = disc_volume(cut[view][0], *cut[view])
        (a, long4), (b, long2) = (cut[view] for view in VIEWS)
        (c, read4), (d, read2) = (read[view] for view in VIEWS)
        found["biplane, principal axis"][phase] = disc_volume(a, b, max(long4, long2))
        found["biplane, reader's axis"][phase] = disc_volume(c, d, max(read4, read2))
        found["biplane, area-length"][phase] = area["A4C"] * area["A2C"] / min(long4, long2)
        found["biplane, common length"][phase] = disc_volume(c, d, 1.0)
    return {name: ejection_fraction(of_phase["ED"], of_phase["ES"]) for name, of_phase in found.items()}


def camus(root: Path, size: int) -> pd.DataFrame:
    """One row per patient with a reference: ef, split and the measures."""
    found = scan("camus", root, "camus")
    files = {(one.sample_id, one.phases[one.frame]): Path(str(one.drawn)) for one in found.tracings}
    rows = []
    for patient, of_views in found.manifest.dropna(subset=["ef"]).groupby("patient_id"):
        maps, mm = {}, {}
        for name, view in zip(of_views["sample_id"], of_views["view"], strict=True):
            for phase in PHASES:
                labels, aspect, height = nifti.read(files[name, phase])
                box = Letterbox(*labels.shape[1:], size, aspect)
                maps[view, phase] = box.mask(labels)[0]
                mm[view] = (height or 1.0) * box.source[0] / box.inner[0]
        facts = {"patient": patient, "split": of_views["split_official"].iloc[0], "ef": of_views["ef"].iloc[0]}
        rows.append(facts | measured(maps, mm))
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Agreement with the references: of all patients, by split, and of the test patients after one offset."""
    fitted, rows = table["split"] != "TEST", []
    for name in MEASURES:
        error = table[name] - table["ef"]
        offset = error[fitted].mean()
        parts = {"all": error, **{str(split): error[table["split"] == split] for split in ("TRAIN", "VAL", "TEST")}}
        parts["TEST shifted"] = parts["TEST"] - offset
        for part, errors in parts.items():
            correlation = np.corrcoef(table.loc[errors.index, [name, "ef"]].T)[0, 1]
            facts = {"n": len(errors), "r": correlation, "bias": errors.mean(), "SD": errors.std()}
            rows.append({"measure": name, "patients": part, **facts, "MAE": errors.abs().mean(), "offset": offset})
    return pd.DataFrame(rows).round({"r": 3, "bias": 2, "SD": 2, "MAE": 2, "offset": 2})


def drawn(size: int, hearts: int) -> pd.Series:
    """Errors of single-plane discs on the exact masks of drawn hearts (A4C) at `size` pixels."""
    errors = []
    for seed in range(hearts):
        ef = float(np.random.default_rng(seed).uniform(15, 75))
        heart = beating_heart("a4c", ef, 40, 25.0, rng := np.random.default_rng(seed))
        video = HeartVideo(np.empty((40, size, size), np.uint8), heart, heart_scanner(heart.deepest, rng, size))
        masks, ventricle = video.masks(), heart.ventricle
        volumes = [volume((masks[frame], 1.0)) for frame in (ventricle.end_diastole, ventricle.end_systole)]
        errors.append(ejection_fraction(*volumes) - ef)
    return pd.Series(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the folder of CAMUS")
    parser.add_argument("--size", type=int, default=224, help="side of the masks in pixels")
    parser.add_argument("--hearts", type=int, default=40)
    chosen = parser.parse_args()
    print(summary(camus(chosen.root, chosen.size)).to_string(index=False))
    errors = drawn(chosen.size, chosen.hearts)
    print(
        f"\n{len(errors)} drawn hearts: bias {errors.mean():+.2f}, SD {errors.std():.2f}, MAE {errors.abs().mean():.2f}"
    )


if __name__ == "__main__":
    main()
