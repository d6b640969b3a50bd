"""Leaving the toolkit and coming in: files of peft, adapters, transformers, ONNX, and the authors."""
