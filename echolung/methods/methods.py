"""The seam `METHODS`: a new method is one file and one line here."""

from echolung.methods.controls import Constant, HandMade, Majority, SourceOnly
from echolung.methods.ejection_fraction import EjectionClass, EjectionFraction, RawEjectionFraction
from echolung.methods.hybrid import EndToEnd, OnTokens
from echolung.methods.method import Method
from echolung.methods.neighbours import AnomalyBank, Indifferent, Knn
from echolung.methods.probes.linear import Linear, TwoViews
from echolung.methods.probes.probe import Attentive, AttentiveBlocks
from echolung.methods.reconstruction import Reconstruction
from echolung.methods.segmentation import Light, MeanMask, Segmentation
from echolung.methods.walls import OnWalls

METHODS: dict[str, type[Method]] = {
    "attentive": Attentive,
    "attentive-blocks": AttentiveBlocks,
    "linear": Linear,
    "linear-views": TwoViews,
    "knn": Knn,
    "anomaly": AnomalyBank,
    "reconstruction": Reconstruction,
    "indifferent": Indifferent,
    "majority": Majority,
    "constant": Constant,
    "source-only": SourceOnly,
    "hand-made": HandMade,
    "segmentation": Segmentation,
    "light-decoder": Light,
    "mean-mask": MeanMask,
    "hybrid": EndToEnd,
    "hybrid-tokens": OnTokens,
    "hybrid-walls": OnWalls,
    "ejection-fraction": EjectionFraction,
    "ejection-fraction-raw": RawEjectionFraction,
    "ejection-fraction-class": EjectionClass,
}
