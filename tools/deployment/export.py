"""Exports an mmdet, mmseg or mmpretrain model to an ONNX or .pt2 file, and compares the file with the model.

The exported model takes RGB images (B, 3, H, W) in float32, with values from 0 to 255, and normalises them as the
config specifies. It returns logits for a classifier, and the class of every pixel for a segmentor. A detector takes one
resized image and the size of the original, and returns boxes, scores, labels and masks with the thresholds of the
config. With `--maps`, its backbone and neck are exported instead, which return feature maps.

`--custom-op` writes a faster ONNX file, which needs onnxruntime with the library of
`mmvmamba.export.custom_op_library()`.
"""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmvmamba.engine.libraries import missing_package

try:
    import mmcv
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.checkpoint import load_checked, read_checkpoint, unwrap_state_dict
from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.class_names import class_info
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.libraries import cannot_import
from mmvmamba.engine.tool_session import tool_session
from mmvmamba.export import custom_op_library, export_detector, export_program
from mmvmamba.export.file_description import describe, test_pipeline

OPSET = 20
OUTPUTS = {'mmdet': 'objects', 'mmseg': 'classes', 'mmpretrain': 'logits'}
TASKS = {'objects': 'detection', 'classes': 'segmentation', 'logits': 'classification'}


class Normalisation(nn.Module):
    """Normalises RGB images (B, 3, H, W), 0 to 255, as the preprocessor of a config normalises the images it loads."""

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: Config):
        super().__init__()
        settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # The pipeline loads BGR images, so a model expects RGB if its preprocessor swaps the channels.
        self.is_rgb = settings.get('bgr_to_rgb', settings.get('to_rgb', False))
        for name, default in (('mean', 0.0), ('std', 1.0)):
            values = torch.tensor(settings.get(name) or [default] * 3)
            self.register_buffer(name, values[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return ((images if self.is_rgb else images.flip(1)) - self.mean) / self.std


class Exported(nn.Module):
    """The exported model: maps RGB images (B, 3, H, W), 0 to 255, to the requested outputs, one tensor or several."""

    def __init__(self, cfg: Config, model: Any, what: str):
        super().__init__()
        self.normalise = Normalisation(cfg)
        self.model: Any = model
        self.what = what

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.normalise(images)
        if self.what == 'backbone':
            return self.model.backbone(x)
        maps = self.model.extract_feat(x)
        if self.what == 'maps':
            return maps
        if self.what == 'logits':
            return self.model.head(maps)
        head = self.model.decode_head
        logits = F.interpolate(head(maps), x.shape[2:], mode='bilinear', align_corners=self.model.align_corners)
        if self.what == 'pixel logits':
            return logits
        # mmseg's postprocess_result
        return logits.argmax(1) if logits.shape[1] > 1 else (logits.sigmoid() > head.threshold)[:, 0].long()


def build_model(cfg: Config, checkpoint: str | None) -> Any:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    content = read_checkpoint(checkpoint) if checkpoint else {}
    if checkpoint:
        load_checked(model, unwrap_state_dict(content, checkpoint), checkpoint)
    model.dataset_meta = class_info(cfg, content.get('meta'))
    return model.eval()


def whole_detector(cfg: Config, model: Any) -> nn.Module:
    """The detector with its post-processing, a module with the arguments `images` and `size`."""
    from mmvmamba.export.detection import ImageDetector, UnsupportedDetector

    try:
        return ImageDetector(model, test_pipeline(cfg), Normalisation(cfg))
    except UnsupportedDetector as error:
        raise LaunchError(f'{error}: add --maps to export the backbone and the neck') from error


def write_onnx(module: nn.Module, args: Namespace, description: str) -> Callable:
    """Writes an ONNX file and returns a function that runs it in onnxruntime."""
    try:
        import onnxruntime

        from mmvmamba.export.onnx_model import to_onnx
    except Exception as error:  # a broken installation raises anything
        if isinstance(error, ImportError) and error.name:
            raise LaunchError(f"{error.name} is missing: pip install 'mmvmamba[export]'") from error
        raise cannot_import('a package that ONNX needs', error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if args.custom_op:
        try:
            options.register_custom_ops_library(custom_op_library())
        except FileNotFoundError as error:
            raise LaunchError(str(error)) from error
    onnx = to_onnx(export(module, args), args.opset or OPSET, args.custom_op)
    for value, name in zip(onnx.model.graph.outputs, getattr(module, 'outputs', ())):
        value.name = name
    onnx.model.metadata_props['mmvmamba'] = description
    onnx.save(args.out)
    graph = onnx.model.graph
    print(f'Nodes       {len(graph)}, and {sum(1 for _ in graph.all_nodes()) - len(graph)} in the bodies of scans')
    if args.custom_op:
        print(f'Operators   {custom_op_library()}')
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(args.out, options, providers=['CPUExecutionProvider'])
    print(f'Loading     {time.perf_counter() - begin:.1f} s in onnxruntime')
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: [torch.from_numpy(y) for y in session.run(None, dict(zip(names, map(Tensor.numpy, inputs))))]


def write_program(module: nn.Module, args: Namespace) -> Callable:
    torch.export.save(export(module, args), args.out)
    return torch.export.load(args.out).module(check_guards=False)  # see `export_detector`


def export(module: nn.Module, args: Namespace) -> torch.export.ExportedProgram:
    function = export_program if isinstance(module, Exported) else export_detector
    return function(module, args.shape, args.unrolled)


def compare_detector(cfg: Config, model: Any, run: Callable, sizes: list, args: Namespace) -> None:
    """Compares the objects of the exported file with those of mmdet: in images, which are resized, or else in noise."""
    from mmvmamba.export.detection import Reference, difference, in_words

    images = {Path(path).name: mmcv.imread(path) for path in args.images or ()} or {
        f'{height} x {width}': torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy()
        for height, width in sizes
    }
    reference = Reference(model, cfg, resize=bool(args.images))
    for label, image in images.items():
        inputs, seconds = reference.inputs(image), []
        expected = found = ()
        with torch.inference_mode():
            for _ in range(args.repeats):
                begin = time.perf_counter()
                expected = reference.predict(image)
                middle = time.perf_counter()
                found = run(*inputs)
                seconds.append((middle - begin, time.perf_counter() - middle))
        model_ms, file_ms = (median(times) * 1e3 for times in zip(*seconds))
        result = in_words(difference(expected, found))
        print(f'{label:<12}{result}; model {model_ms:.0f} ms, file {file_ms:.0f} ms', flush=True)


def compare(module: nn.Module, run: Callable, images: Tensor, label: str, repeats: int) -> None:
    """Compares the outputs and run times of the exported file and the model, which run alternately."""
    seconds = {module: [], run: []}
    with torch.inference_mode():
        for _ in range(repeats):
            results = []
            for call in (module, run):
                begin = time.perf_counter()
                results.append(as_tuple(call(images)))
                seconds[call].append(time.perf_counter() - begin)
    expected, found = results
    if found[0].is_floating_point():
        difference = max((a - b).abs().max().item() for a, b in zip(found, expected))
        largest = max(a.abs().max().item() for a in expected)
        equality = f'largest difference {difference:.1e} of {largest:.1e}'
    else:
        share = (found[0] == expected[0]).double().mean().item()
        equality = f'{share:.4%} of the pixels equal, {len(expected[0].unique())} classes'
    model, file = (median(times) * 1e3 for times in seconds.values())
    print(f'{label:<12}{equality}; model {model:.0f} ms, file {file:.0f} ms', flush=True)


def image_size(cfg: Config) -> tuple[int, int]:
    """The (height, width) of the last crop or resizing in the pipelines of the config, for testing if it has one."""
    for stage in ('test', 'train'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset') or {}
        for step in reversed(dataset.get('pipeline') or []):
            size = step.get('crop_size') or step.get('scale')
            if str(step['type']).endswith(('Crop', 'Resize')) and size:
                width, height = size if isinstance(size, (tuple, list)) else (size, size)
                return height, width
    return 224, 224


def as_tuple(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, 'config')
    parser.add_argument('checkpoint', help="checkpoint file or URL, or 'none' for random weights")
    parser.add_argument('out', help='output file, .onnx or .pt2')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='export for a single image of this size (default: any number of images of any size)',
    )
    parser.add_argument(
        '--unrolled',
        action='store_true',
        help='unroll the scans, for GPUs and runtimes without the Scan operator; requires --shape',
    )
    parser.add_argument(
        '--opset',
        type=int,
        choices=range(17, 25),
        metavar='17..24',
        help=f'version of the ONNX operators (default: {OPSET}); TensorRT 8.5 needs 17',
    )
    parser.add_argument(
        '--custom-op',
        action='store_true',
        help='write each scan as one operator of mmvmamba, for onnxruntime and OpenVINO on CPUs; only for .onnx',
    )
    parser.add_argument('--backbone', action='store_true', help='export only the backbone, which returns feature maps')
    parser.add_argument('--maps', action='store_true', help='export only backbone and neck, which return feature maps')
    parser.add_argument(
        '--logits', action='store_true', help='export the logits of a segmentor instead of the classes of the pixels'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='FILE',
        help='images for the comparison (default: noise of the size of the config, and of a smaller one)',
    )
    parser.add_argument('--repeats', type=int, default=3, help='repeats of the comparison (default: %(default)s)')
    add_arguments(parser, 'cfg_options', 'trust_checkpoint')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        suffix = Path(args.out).suffix
        if suffix not in ('.onnx', '.pt2'):
            raise LaunchError(f'{args.out} must end in .onnx or .pt2')
        if suffix == '.pt2' and args.opset:
            raise LaunchError('--opset is for .onnx files')
        if args.backbone + args.maps + args.logits > 1:
            raise LaunchError('--backbone, --maps and --logits exclude each other')
        if args.unrolled and not args.shape:
            raise LaunchError('--unrolled needs the size of the image: add --shape HEIGHT WIDTH')
        if args.custom_op and (args.unrolled or suffix == '.pt2'):
            raise LaunchError('--custom-op writes operators of onnxruntime: use an .onnx file without --unrolled')
        cfg = load_config(args.config, args.cfg_options)
        if args.logits and cfg.default_scope != 'mmseg':
            raise LaunchError('--logits is for segmentors')
        model = build_model(cfg, None if args.checkpoint == 'none' else args.checkpoint)
        given = {'backbone': args.backbone, 'maps': args.maps, 'pixel logits': args.logits}
        what = next(filter(given.get, given), OUTPUTS[cfg.default_scope])
        module = whole_detector(cfg, model) if what == 'objects' else Exported(cfg, model, what)
        begin = time.perf_counter()
        if suffix == '.onnx':
            run = write_onnx(module, args, describe(cfg, TASKS.get(what, 'feature maps'), model.dataset_meta))
        else:
            run = write_program(module, args)
        seconds = time.perf_counter() - begin
        print(f'Written     {args.out}, {Path(args.out).stat().st_size / 1e6:.1f} MB, after {seconds:.0f} s')
        sizes = [args.shape]
        if not args.shape:
            height, width = image_size(cfg)
            sizes = [(height, width), (3 * height // 4, width)]  # the file accepts any size
        if what == 'objects':
            compare_detector(cfg, model, run, sizes, args)
            return
        if args.images:
            for path in args.images:
                images = torch.from_numpy(mmcv.imread(path, channel_order='rgb')).permute(2, 0, 1)[None].float()
                compare(module, run, images, Path(path).name, args.repeats)
            return
        for height, width in sizes:
            compare(module, run, torch.rand(1, 3, height, width) * 255, f'{height} x {width}', args.repeats)


if __name__ == '__main__':
    main()
