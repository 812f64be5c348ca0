"""Export models as folders for other programs: ONNX, OpenVINO, Roboflow."""
