"""Export of models to `torch.export` programs and ONNX files.

`onnx_model`, `onnx_scan` and `onnx_operators` require the extra `export`. `detection` requires mmdet and torchvision.
"""

from .custom_op_library import custom_op_library
from .openvino_extension import openvino_extension
from .program import export_detector, export_program

__all__ = ['custom_op_library', 'export_detector', 'export_program', 'openvino_extension']
