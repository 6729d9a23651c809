"""EchoLung: does a video model pretrained on one kind of ultrasound see another kind better than one that has seen nothing?"""

__version__ = "0.1.0"
