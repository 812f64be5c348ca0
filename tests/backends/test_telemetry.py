"""OpenVINO and NNCF send no reports, and other code finds their telemetry package as before."""

import subprocess
import sys

SCRIPT = """
import sys, numpy as np
from perception_encoder import AutoModel
assert "openvino_telemetry" not in sys.modules
with AutoModel.from_pretrained("pe-nano", backend="openvino") as model:
    model.embed_text("a cat")
from perception_encoder.backends.openvino_graphs import import_without_telemetry
import_without_telemetry("nncf")
assert "openvino_telemetry" not in sys.modules
from openvino.tools.ovc import telemetry_utils
from nncf.telemetry import wrapper
print(telemetry_utils.tm.__name__, type(wrapper.telemetry).__name__)
import openvino_telemetry
"""


def test_nothing_is_reported_and_the_package_can_be_imported():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "MagicMock"]
