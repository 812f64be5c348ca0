"""The collector of cycles does not look at what stays, again and again."""

import subprocess
import sys

CHILD = """
import gc, weakref
from perception_encoder.server.pauses import shorten_pauses
class Node: pass
for _ in range(2):
    shorten_pauses()
assert len(gc.callbacks) == 1
kept = [[number] for number in range(1_500_000)]
gc.collect()
frozen = gc.get_freeze_count()
assert frozen > 1_000_000  # all but what the latest short collection saw first
node = Node()
node.itself, seen = node, weakref.ref(node)
del node
gc.collect()
assert seen() is None  # what came later is still collected
assert gc.get_freeze_count() == frozen  # and what came later is not kept
"""


def test_what_survives_a_long_collection_is_left_alone():
    subprocess.run([sys.executable, "-c", CHILD], check=True, timeout=60)
