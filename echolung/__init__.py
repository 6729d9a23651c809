"""EchoLung: what has a model learnt from unlabelled ultrasound, and is it worth anything where labels are few?

ECHOLUNG_PLUGINS names modules, separated by commas, that are imported with the package in every process of a study: the
place to register encoders, objectives, methods and kinds of your own.
"""

import importlib
import os

__version__ = "0.1.0"

for _name in filter(None, os.environ.get("ECHOLUNG_PLUGINS", "").split(",")):
    importlib.import_module(_name.strip())
