"""Compiles an ONNX model into a faster one that still gives its answers."""
