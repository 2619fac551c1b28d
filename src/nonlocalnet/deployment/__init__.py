"""Networks outside of PyTorch: ONNX and torch.export programs, and int8."""
