"""Models as folders for other programs: ONNX, OpenVINO, Roboflow."""
