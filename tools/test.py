"""Tests a checkpoint of mmdet, mmseg or mmpretrain: computes metrics, and saves predictions and images."""

import signal
from argparse import ArgumentParser
from copy import deepcopy
from pathlib import Path

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds, needs no traceback

from mmengine.config import ConfigDict

from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.config_paths import check_config_paths
from mmvmamba.engine.distributed import init_process_group, on_main_process
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.hooks.pictures import PictureHook
from mmvmamba.engine.runner import build_runner
from mmvmamba.engine.tool_session import tool_session
from mmvmamba.engine.work_dir import make_folder


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, 'config', 'work_dir', 'cfg_options', 'launcher', 'trust_checkpoint', 'trust_annotations')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out', help='save the predictions: a .pkl file (mmdet, mmpretrain) or a folder of label maps (mmseg)'
    )
    parser.add_argument('--show', action='store_true', help='show images with predictions in a window')
    parser.add_argument('--show-dir', help='write images with annotations and predictions to this folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for which --show displays each image')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: tta_model of the config, else a flip'
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        cfg.load_from, cfg.resume = args.checkpoint, False
        if args.show:
            show_predictions(cfg, args)
        if args.show_dir:
            write_pictures(cfg, args)
        if args.out:
            save_predictions(cfg, args.out)
        if args.tta:
            augment(cfg)
        check_config_paths(cfg, 'test')
        init_process_group(cfg)
        on_main_process(lambda: make_output_folders(cfg, args))
        build_runner(cfg).test()


def show_predictions(cfg, args):
    """Makes the visualization hook of the library open windows."""
    if args.tta and cfg.default_scope == 'mmpretrain':
        raise LaunchError('mmpretrain cannot show images with --tta: use --show-dir, or --show without --tta')
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise LaunchError(
            '--show needs a visualization hook: add '
            "default_hooks=dict(visualization=dict(type='DetVisualizationHook')) to the config, "
            'SegVisualizationHook for mmseg, VisualizationHook for mmpretrain'
        )
    hook.show, hook.wait_time = True, args.wait_time
    hook['enable' if cfg.default_scope == 'mmpretrain' else 'draw'] = True


def write_pictures(cfg, args):
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    score_thr = (hooks.get('visualization') or {}).get('score_thr', 0.3)
    hooks.pictures = dict(type=PictureHook, out_dir=args.show_dir, score_thr=score_thr)
    if not args.show:
        hooks.pop('visualization', None)  # the hook of mmseg would warn that it does not draw


def make_output_folders(cfg, args):
    """Creates the folders of all results, so that a wrong path does not cost a whole test."""
    make_folder(Path(cfg.work_dir))
    if args.out:
        make_folder(Path(args.out) if cfg.default_scope == 'mmseg' else Path(args.out).parent, '--out')
    if args.show_dir:
        make_folder(Path(args.show_dir), '--show-dir')


def save_predictions(cfg, out):
    if cfg.default_scope == 'mmseg':
        for evaluator in evaluators(cfg):
            evaluator.output_dir, evaluator.keep_results = out, True
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise LaunchError(f'--out {out} must end in .pkl: {cfg.default_scope} saves its predictions as a pickle')
    dump = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*evaluators(cfg), ConfigDict(type=dump, out_file_path=out)]


def augment(cfg):
    """Adds test-time augmentation: `tta_model` and `tta_pipeline` of the config, else a horizontal flip."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    defaults = {
        'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
        'mmseg': dict(type='SegTTAModel'),
        'mmpretrain': dict(type='AverageClsScoreTTA'),
    }
    tta_model = dict(cfg.get('tta_model') or defaults[cfg.default_scope])
    kind = tta_model['type'] if isinstance(tta_model['type'], str) else tta_model['type'].__name__
    if kind.rpartition('.')[2] == 'DetTTAModel':
        check_predicts_boxes_only(cfg)
        from mmvmamba.engine.box_tta import BoxTTAModel  # imports mmdet

        tta_model['type'] = BoxTTAModel
    cfg.model = ConfigDict(**tta_model, module=cfg.model)
    if 'tta_pipeline' not in cfg:
        *steps, pack = deepcopy(dataset.pipeline)
        pack.pop('meta_keys', None)  # the default keys include the flip, which merging has to undo
        # the unflipped view is first, because the ground truth is taken from the first view
        flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline


def check_predicts_boxes_only(cfg):
    """Rejects metrics that need masks: DetTTAModel merges boxes, and takes the rest from the first view."""
    for number, evaluator in enumerate(evaluators(cfg)):
        option = f'test_evaluator.{number}' if isinstance(cfg.test_evaluator, list) else 'test_evaluator'
        if 'segm' in evaluator.get('metric', ()):
            raise LaunchError(f'--tta of mmdet merges boxes but not masks: add --cfg-options {option}.metric=bbox')
        if any(word in str(evaluator['type']) for word in ('Panoptic', 'SemSeg')):
            raise LaunchError(f'--tta of mmdet merges boxes only: {option} of this config is a {evaluator["type"]}')


def evaluators(cfg):
    return cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]


if __name__ == '__main__':
    main()
