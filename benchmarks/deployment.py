"""Compares exported models in the runtimes that are used on CPUs: PyTorch, onnxruntime and OpenVINO.

    python benchmarks/deployment.py [--family vim] [--sizes 224 512] [--rounds 9] [--json FILE] [--plot FILE]

Each network runs in each runtime, for batch 1, on the same threads. Ours is exported once, for any image size, with the
operators of mmvmamba. Its peers are exported for each image size, because that is faster. OpenVINO gets both with a
fixed size. Needs `pip install 'mmvmamba[export,openvino]'`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import deployment_figure
import measure
import onnxruntime
import openvino
import torch
from networks import FAMILIES, build
from openvino_model import compile_model
from torch import Tensor

from mmvmamba.export import custom_op_library, export_program, openvino_extension
from mmvmamba.export.onnx_model import to_onnx

NETWORKS = {'vmamba': ('VMamba-T', 'Swin-T', 'ConvNeXt-T'), 'vim': ('Vim-Ti', 'DeiT-Ti')}
SIZES = {'vmamba': (224, 512, 1024), 'vim': (224, 512, 1248)}
EAGER = 'PyTorch'
RUNTIMES = (EAGER, 'onnxruntime', 'OpenVINO', 'OpenVINO bfloat16')
PRODUCTS = ('MatMul', 'FusedMatMul', 'Gemm', 'Conv')  # nodes of onnxruntime

Run = Callable[[Tensor], object]


def export(name: str, size: int, folder: Path) -> Path:
    """Writes the ONNX file of a network, unless it exists."""
    ours = name.startswith(('VMamba', 'Vim'))
    file = folder / (f'{name}.onnx' if ours else f'{name}-{size}.onnx')
    if not file.exists():
        model = build(name, size).eval()
        if ours:
            to_onnx(export_program(model), custom_op=True).save(str(file))
        else:
            images = torch.zeros(1, 3, size, size)
            torch.onnx.export(model, (images,), str(file), dynamo=True, opset_version=20, verbose=False)
    return file


def open_pytorch(name: str, size: int) -> Run:
    model = build(name, size).eval()

    def run(images: Tensor) -> None:
        with torch.inference_mode():
            model(images)

    return run


def open_onnxruntime(file: Path, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Threads that spin after a run slow down whatever is measured next.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.register_custom_ops_library(custom_op_library())
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(file), options, ['CPUExecutionProvider'])


def open_model(name: str, runtime: str, size: int, folder: Path) -> tuple[Run, float]:
    """Returns a function that runs the model, and the seconds that it took to open its file."""
    if runtime == EAGER:
        return open_pytorch(name, size), 0
    file, begin = export(name, size, folder), time.perf_counter()
    if runtime == 'onnxruntime':
        session = open_onnxruntime(file)
        [entry] = session.get_inputs()
        return lambda images: session.run(None, {entry.name: images.numpy()}), time.perf_counter() - begin
    precision = 'bf16' if runtime.endswith('bfloat16') else 'f32'
    request = compile_model(file, (1, 3, size, size), precision, torch.get_num_threads()).create_infer_request()
    return lambda images: request.infer([images.numpy()]), time.perf_counter() - begin


def share_of_products(file: Path, size: int, folder: Path) -> float:
    """Returns the share of matrix products and convolutions in the time of all nodes, from onnxruntime's profile."""
    session = open_onnxruntime(file, folder / 'profile')
    images = torch.randn(1, 3, size, size).numpy()
    for _ in range(5):
        session.run(None, {session.get_inputs()[0].name: images})
    events = json.loads(Path(session.end_profiling()).read_text())
    times = [(e['args']['op_name'], e['dur']) for e in events if e['name'].endswith('_kernel_time')]
    return sum(time for name, time in times if name in PRODUCTS) / sum(time for _, time in times)


def make_images(seed: int, size: int) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed & 0xFFFFFFFF))


def measure_size(size: int, options: argparse.Namespace, folder: Path) -> list[dict]:
    baseline = FAMILIES[options.family].baseline
    opened = {
        (name, runtime): open_model(name, runtime, size, folder)
        for name in NETWORKS[options.family]
        for runtime in options.runtimes
    }
    runs = {f'{name}, {runtime}': run for (name, runtime), (run, _) in opened.items()}
    times = measure.interleave(runs, partial(make_images, size=size), 'cpu', options.rounds)
    rows = []
    for (name, runtime), (_, seconds_to_open) in opened.items():
        seconds = times[f'{name}, {runtime}']
        row = dict(network=name, runtime=runtime, size=size, seconds=seconds, seconds_to_open=seconds_to_open)
        row['ratio'] = measure.ratios(seconds, times[f'{baseline}, {runtime}'])
        row['ratio_to_eager'] = measure.ratios(seconds, times[f'{baseline}, {EAGER}'])
        if runtime == 'onnxruntime':
            row['share_of_products'] = share_of_products(export(name, size, folder), size, folder)
        rows.append(row)
    return rows


def show(size: int, rows: list[dict], baseline: str) -> None:
    header = ['', 'ms', f'x {baseline}, same runtime', f'x {baseline}, PyTorch', 's to open', 'x products alone']
    cells = [
        [
            f'{row["network"]}, {row["runtime"]}',
            measure.milliseconds(row['seconds']),
            measure.spread(row['ratio']),
            measure.spread(row['ratio_to_eager']),
            f'{row["seconds_to_open"]:.2f}' if row['runtime'] != EAGER else '-',
            f'{1 / row["share_of_products"]:.2f}' if 'share_of_products' in row else '-',
        ]
        for row in rows
    ]
    measure.show(f'{size}x{size}, batch 1', header, cells)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--family', choices=NETWORKS, default='vmamba', help='networks to compare (default: vmamba)')
    parser.add_argument('--sizes', type=int, nargs='+', help='image sizes (default: set by the family)')
    parser.add_argument('--runtimes', nargs='+', choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument('--rounds', type=int, default=9, help='minimum number of measured rounds (default: 9)')
    parser.add_argument('--threads', type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument('--files', type=Path, metavar='FOLDER', help='keep the exported files here, and reuse them')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results to this file')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='write a figure of the times here')
    options = parser.parse_args()
    options.device, options.sizes = 'cpu', options.sizes or list(SIZES[options.family])
    if EAGER not in options.runtimes:
        parser.error(f'--runtimes must contain {EAGER}: its time is the unit.')
    return options


def main() -> None:
    options = parse_options()
    machine = measure.start(options)
    openvino_extension()  # compiled before the time to open a file is measured
    machine['versions'] += f', onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__.partition("-")[0]}'
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        os.makedirs(folder, exist_ok=True)
        for size in options.sizes:
            rows = measure_size(size, options, folder)
            show(size, rows, FAMILIES[options.family].baseline)
            results += rows
    measure.write_json(options.json, machine, options, results)
    if options.plot:
        deployment_figure.plot(options.plot, results, FAMILIES[options.family].baseline)


if __name__ == '__main__':
    main()
