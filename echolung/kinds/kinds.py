"""The seam `KINDS`: a new kind of task is one file and one line here."""

from echolung.kinds.anomaly import Anomaly
from echolung.kinds.classification import Classification
from echolung.kinds.kind import Kind
from echolung.kinds.regression import Regression
from echolung.kinds.segmentation import Segmentation
from echolung.kinds.task import Task

KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "anomaly": Anomaly(),
    "regression": Regression(),
    "segmentation": Segmentation(),
}


def kind_of(task: Task) -> Kind:
    """The kind of a task."""
    return KINDS[task.kind]
