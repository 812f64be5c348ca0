"""Keeps the collector of reference cycles from stopping a busy server.

A full collection looks at every object there is: 80 ms for the modules and schemas of a server with
a model, with the interpreter's lock held, while requests wait. What is there when the models are
open stays, so later collections need not look at it: they take 3 ms (`benchmarks/collector.py`).
"""

import gc


def shorten_pauses() -> None:
    """Collect what is garbage, and leave what is left alone from now on, for the whole process.

    Once, before requests come: of what is frozen while they are answered, cycles would stay for
    ever. Closing a model unfreezes everything (`core.engines`).
    """
    gc.collect()
    gc.freeze()
