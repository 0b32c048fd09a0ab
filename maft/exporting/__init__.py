"""Models written for other runtimes: ONNX and torch.export. `maft.exporting.run.export` does all of it."""
