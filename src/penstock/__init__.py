"""Penstock drains a spool directory of JSON files into Amazon SQS, each file once."""

import gc
import importlib
import sys
from typing import Any

__version__ = "0.1.0"


def import_at_once(name: str) -> Any:
    """Import a module with garbage collection off: scanning its objects is a tenth of a start."""
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()
