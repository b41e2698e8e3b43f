"""Export of models to `torch.export` programs and ONNX files.

`onnx_model` and `onnx_scan` require the extra `export`.
"""

from .program import export_program

__all__ = ['export_program']
