"""Quantises the linear layers of an ONNX file to int8, and compares the new file with the old one.

The file must come from `export.py --custom-op`. Weights are quantised per output channel, and activations in each run
("dynamic" quantisation), so no calibration images are needed. These stay in float32:

- `x_proj_weight` (`x_proj` in Vim), the projections to dt, B and C. The scan accumulates errors of dt along its
  sequence, and quantising these small layers saves only 1 % of the time.
- `dt_projs_weight` (`dt_proj` in Vim), `A_logs`, `Ds` and the other parameters of the scan. They are inputs of its
  operator, which reads float32.
- convolutions, norms and embeddings.
"""

import logging
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

import numpy as np

from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.libraries import cannot_import
from mmvmamba.engine.tool_session import tool_session
from mmvmamba.export import custom_op_library

LAYERS = ('MatMul', 'Gemm')
QUANTISED = ('DynamicQuantizeLinear', 'QuantizeLinear')


def read_graph(file):
    """The graph of an ONNX file."""
    import onnx

    if not Path(file).is_file():
        raise LaunchError(f'{file} does not exist')
    try:
        return onnx.load(file).graph
    except Exception as error:  # protobuf raises its own classes
        raise LaunchError(f'{file} is not an ONNX file: quantise a file of export.py, not a checkpoint') from error


def projections(graph):
    """The names of the nodes that compute dt, B and C, one map, of the scans."""
    made_by = {output: node for node in graph.node for output in node.output}
    found = []
    for scan in (node for node in graph.node if node.op_type == 'SelectiveScan2D'):
        node = made_by.get(scan.input[1])
        while node is not None and node.op_type not in LAYERS:
            node = made_by.get(node.input[0])
        if node is not None:
            found.append(node.name)
    return found


def quantise(file, out, excluded):
    """Writes the quantised file; `excluded` are the names of nodes that stay in float32."""
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime recommends its preprocessing, which changes nothing here
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except Exception as error:  # a broken installation raises anything
        raise cannot_import('onnxruntime.quantization', error) from error
    quantize_dynamic(
        file,
        out,
        op_types_to_quantize=list(LAYERS),
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )


def session(file):
    """A session on one thread with the operators of mmvmamba."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.register_custom_ops_library(custom_op_library())
    return onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])


def compare(files, shape, repeats):
    """Prints the difference of the outputs for noise, and the times of both files, which run alternately."""
    height, width = shape
    images = (np.random.default_rng(0).random((1, 3, height, width)) * 255).astype(np.float32)
    sessions, seconds = [session(file) for file in files], [[], []]
    for _ in range(repeats + 1):  # the first run is a warm-up
        results = []
        for run, times in zip(sessions, seconds):
            begin = time.perf_counter()
            results.append(run.run(None, {'images': images}))
            times.append(time.perf_counter() - begin)
    for expected, found in zip(*results):
        if np.issubdtype(expected.dtype, np.floating):
            difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            print(f'Difference  {difference:.1e} (relative, of norms)')
        else:
            print(f'Difference  {np.mean(found != expected):.3%} of the pixels have another class')
    before, after = (median(times[1:]) * 1e3 for times in seconds)
    print(f'Time        {before:.0f} ms -> {after:.0f} ms for {height} x {width}, on one thread')


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('file', help='file of export.py --custom-op')
    parser.add_argument('out', help='output file')
    parser.add_argument(
        '--shape', type=int, nargs=2, default=(224, 224), metavar=('HEIGHT', 'WIDTH'), help='size for the comparison'
    )
    parser.add_argument('--repeats', type=int, default=9, help='runs of the comparison (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        graph = read_graph(args.file)
        if any(node.op_type in QUANTISED for node in graph.node):
            raise LaunchError(f'{args.file} is already quantised')
        excluded = projections(graph)
        if not excluded:
            raise LaunchError(f'{args.file} has no operators of mmvmamba: export it with --custom-op')
        quantise(args.file, args.out, excluded)
        left = [node for node in read_graph(args.out).node if node.op_type in LAYERS]
        total = sum(node.op_type in LAYERS for node in graph.node)
        print(f'Quantised   {total - len(left)} of {total} linear layers')
        sizes = [Path(file).stat().st_size / 1e6 for file in (args.file, args.out)]
        print(f'Written     {args.out}, {sizes[0]:.1f} MB -> {sizes[1]:.1f} MB')
        compare((args.file, args.out), args.shape, args.repeats)


if __name__ == '__main__':
    main()
