"""Web page that shows the predictions of a model for an image, and which positions influence a clicked pixel.

The configs of this repository and those on the command line are available; a config is a program, so it cannot be
uploaded. Checkpoints are read as data. The page can only be opened on this machine.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mmvmamba.engine.libraries import missing_package

try:
    import cv2
    import gradio as gr
    import mmcv
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.analysis.networks import to_input
from mmvmamba.analysis.scans import TokenLayout, record_scans, scan_attention
from mmvmamba.checkpoint import CheckpointError
from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.inference import (
    class_map,
    classification,
    displayable,
    draw,
    image_loader,
    load_inferencer,
    predict,
)
from mmvmamba.engine.tool_session import tool_session

ROOT = Path(__file__).parents[1]
OPACITY = 0.5
STRIDE = 16  # the influence is shown for the deepest map with at most this stride


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='*', help='further configs; the first one is selected at the start')
    parser.add_argument('--checkpoint', default='', help='checkpoint file or URL to show at the start')
    add_arguments(parser, 'device')
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        build_page(args).launch(server_name='127.0.0.1', server_port=args.port)


def build_page(args: Namespace) -> gr.Blocks:
    shipped = [path for path in sorted(ROOT.glob('configs/*/*.py')) if path.parent.name != '_base_']
    configs = [*args.configs, *(str(path.relative_to(ROOT)) for path in shipped)]
    load = lru_cache(maxsize=1)(lambda config, checkpoint: load_model(config, checkpoint, args.device))

    def find(config, checkpoint, file, score_thr):
        if file is None or not checkpoint:
            raise gr.Error('Upload an image and enter a checkpoint first.')
        read, inferencer = shown_on_page(load, config, checkpoint)
        image = shown_on_page(read, file)
        [sample] = predict(inferencer, [image])
        return draw(inferencer, image, sample, score_thr, OPACITY)[..., ::-1], summary(inferencer, sample, score_thr)

    def look(config, checkpoint, file, event: gr.SelectData):
        read, inferencer = shown_on_page(load, config, checkpoint)
        image = np.ascontiguousarray(displayable(shown_on_page(read, file))[..., ::-1])
        return shown_on_page(read_at, inferencer.model.backbone, image, *event.index)

    with gr.Blocks(title='mmvmamba', analytics_enabled=False) as page:
        gr.Markdown(
            '# mmvmamba\nUpload an image, press Find, and click a pixel of the result to see what influences it.'
        )
        with gr.Row():
            config = gr.Dropdown(configs, value=configs[0], label='Config')
            checkpoint = gr.Textbox(args.checkpoint, label='Checkpoint', placeholder='file or URL')
            score_thr = gr.Slider(0, 1, 0.3, label='Lowest score of an object or label')
        with gr.Row():
            image = gr.Image(label='Image', type='filepath', image_mode=None)  # the file as it was uploaded
            with gr.Column():
                picture = gr.Image(label='Predictions', interactive=False)
                text = gr.Markdown()
            activation = gr.Image(label='Influence on the pixel', interactive=False)
        button = gr.Button('Find', variant='primary')
        button.click(find, [config, checkpoint, image, score_thr], [picture, text])
        picture.select(look, [config, checkpoint, image], activation)
    return page


def load_model(config, checkpoint, device):
    """Returns a function that reads an image as the config does, and the inferencer."""
    path = config if Path(config).is_file() else str(ROOT / config)
    cfg = load_config(path)
    return image_loader(cfg), load_inferencer(cfg, checkpoint, device)


def shown_on_page(function, *arguments):
    """Returns the result of a function, or shows its error on the page."""
    try:
        return function(*arguments)
    except (LaunchError, CheckpointError, DataError) as error:
        raise gr.Error(str(error)) from error


def summary(inferencer, sample, score_thr):
    """Describes the predictions in a line."""
    if 'pred_instances' in sample:
        found, classes = sample.pred_instances, inferencer.model.dataset_meta['classes']
        counts = Counter(classes[label] for label in found.labels[found.scores >= score_thr].tolist())
        return ', '.join(f'{count} {name}' for name, count in counts.most_common()) or 'nothing'
    if 'pred_sem_seg' in sample:
        labels, classes = class_map(sample), inferencer.model.dataset_meta['classes']
        shares = Counter({classes[label]: (labels == label).mean() for label in np.unique(labels)})
        return ', '.join(f'{share:.1%} {name}' for name, share in shares.most_common())
    found = classification(inferencer, sample, score_thr)
    labels = found.get('labels', [found])
    return ', '.join(f'{each.get("class", each["label"])} ({each["score"]:.2f})' for each in labels) or 'nothing'


@torch.no_grad()
def read_at(backbone, image, x, y):
    """Returns the image with a heat map: how much each position influences pixel (x, y), over all traversals."""
    if getattr(backbone, 'in_channels', 3) != 3:
        raise LaunchError(f'The influence on a pixel is shown for images of 3 channels, not {backbone.in_channels}')
    height, width = (max(1, round(side / 32)) * 32 for side in image.shape[:2])
    resized = np.asarray(mmcv.imresize(image, (width, height), interpolation='area'))
    scans = record_scans(backbone, to_input(resized, next(backbone.parameters()).device))
    layouts = [TokenLayout.of(backbone, scan, resized.shape[:2]) for scan in scans]
    deep = [(scan, layout) for scan, layout in zip(scans, layouts) if layout.height * STRIDE >= height]
    if not deep:
        raise LaunchError(f'{type(backbone).__name__} has no selective scan whose influence could be shown')
    scan, layout = deep[-1]
    row, column = int(y / image.shape[0] * layout.height), int(x / image.shape[1] * layout.width)
    weights = layout.to_map(scan_attention(scan, *layout.in_scan(row, column)))  # (K, height, width, channels)
    weights = weights.sum(0).abs().mean(-1).sqrt().cpu().numpy()
    heat = np.asarray(mmcv.imresize((255 * weights / weights.max()).astype(np.uint8), image.shape[1::-1]))
    colours = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)[..., ::-1]
    blended = cv2.addWeighted(image, 0.4, np.ascontiguousarray(colours), 0.6, 0)
    return cv2.drawMarker(blended, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 20, 2)


if __name__ == '__main__':
    main()
