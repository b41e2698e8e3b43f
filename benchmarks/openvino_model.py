"""Compiles an exported model with OpenVINO, for benchmarks."""

from pathlib import Path
from typing import Any

from mmvmamba.export import openvino_extension


def compile_model(file: str | Path, shape: tuple[int, ...] | None, precision: str, threads: int) -> Any:
    """Returns an `openvino.CompiledModel` of an ONNX file with the operators of mmvmamba, or of any other file.

    Args:
        shape: the fixed shape of the images; None to keep dynamic sizes, which takes up to 10 % longer.
        precision: 'f32' or 'bf16', OpenVINO's default on processors that support it.
        threads: number of threads of an inference.
    """
    import openvino

    core = openvino.Core()
    core.add_extension(openvino_extension())
    model = core.read_model(file)
    if shape:
        model.reshape(shape)
    return core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT=precision, INFERENCE_NUM_THREADS=threads))
