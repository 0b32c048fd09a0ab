"""Models written for other runtimes: torch.export, AOTInductor and ONNX. `maft.exporting.run.export` does all of it."""
