"""`prunelab export`: a pruned network as ONNX or TorchScript."""
