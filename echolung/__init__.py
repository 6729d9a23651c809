"""EchoLung: whether a video model pretrained on hearts sees lungs better than one that has seen nothing."""

__version__ = "0.1.0"
