"""Draws what a detector of mmdet or a segmentor of mmseg finds in one image."""

from argparse import ArgumentParser
from pathlib import Path

import mmcv
from mmengine.config import DictAction
from mmengine.device import get_device

from mmvmamba.checkpoint import load_checked, read_checkpoint, unwrap_state_dict
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.launch import launching, load_config


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file of mmdet or mmseg')
    parser.add_argument('checkpoint', help='file or URL')
    parser.add_argument('--out-file', help='picture to write (default: <name of the image>_pred.png, here)')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a box that is drawn')
    parser.add_argument('--opacity', type=float, default=0.5, help='of the classes that a segmentor paints')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read a checkpoint that holds more than data; this runs the code that it names',
    )
    parser.set_defaults(launcher='none', work_dir=None)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with launching(args):
        if not Path(args.image).is_file():
            raise LaunchError(f'image {args.image} does not exist')
        cfg = load_config(args)
        if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
            raise LaunchError(f'{args.config} is a config of neither mmdet nor mmseg: its default_scope must say which')
        draw = draw_instances if cfg.default_scope == 'mmdet' else draw_classes
        out_file = args.out_file or f'{Path(args.image).stem}_pred.png'
        draw(cfg, args, out_file)
        print(f'Written to {out_file}')


def draw_instances(cfg, args, out_file):
    from mmdet.apis import inference_detector, init_detector
    from mmdet.visualization import DetLocalVisualizer

    model = load_model(init_detector, cfg, args)
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = model.dataset_meta
    visualizer.add_datasample(
        'prediction',
        mmcv.imread(args.image, channel_order='rgb'),
        inference_detector(model, args.image),
        draw_gt=False,
        pred_score_thr=args.score_thr,
        out_file=out_file,
    )


def draw_classes(cfg, args, out_file):
    from mmseg.apis import inference_model, init_model
    from mmseg.visualization import SegLocalVisualizer

    model = load_model(init_model, cfg, args)
    visualizer = SegLocalVisualizer(alpha=args.opacity)
    visualizer.dataset_meta = model.dataset_meta
    visualizer.add_datasample(
        'prediction',
        mmcv.imread(args.image, channel_order='rgb'),
        inference_model(model, args.image),
        draw_gt=False,
        out_file=out_file,
    )


def load_model(init, cfg, args):
    """The library's own way to a model; it would go on with a checkpoint that fits nowhere, so that is checked here."""
    state_dict = unwrap_state_dict(read_checkpoint(args.checkpoint), args.checkpoint)
    model = init(cfg, args.checkpoint, device=args.device)
    load_checked(model, state_dict, args.checkpoint)
    return model


if __name__ == '__main__':
    main()
