"""The custom-operator library for ONNX Runtime: where it is, and how to register it."""
