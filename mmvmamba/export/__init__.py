"""Models as programs of `torch.export` and as ONNX files; `onnx_model` and `onnx_scan` need the extra `export`."""

from .program import export_program

__all__ = ['export_program']
