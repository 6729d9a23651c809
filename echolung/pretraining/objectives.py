"""The self-supervised objectives. A new one is one file with its class and settings, and one line here."""

from echolung.pretraining.discovr import Discovr
from echolung.pretraining.jepa import Jepa
from echolung.pretraining.mae import Mae
from echolung.pretraining.objective import Objective
from echolung.pretraining.salt import Salt

OBJECTIVES: dict[str, type[Objective]] = {"jepa": Jepa, "mae": Mae, "salt": Salt, "discovr": Discovr}
