"""Networks outside of PyTorch: ONNX and torch.export programs, and int8."""

SUFFIXES = (".onnx", ".pt2")  # of the files that `export` writes
