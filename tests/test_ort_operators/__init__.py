import pytest

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
