"""Converts a released checkpoint to a clean mmengine checkpoint, or back. The file suffixes select the format.

    python tools/model_converters/convert_checkpoint.py vssm1_tiny.pth vmamba-t.safetensors

The weights and the class names are kept; optimizer, scheduler and training config are dropped. Tensors are converted to
their current keys and shapes. If a tensor is missing or has a different shape, no file is written.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import OrderedDict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmvmamba  # noqa: F401, registers the backbones
from mmvmamba.checkpoint import CheckpointError, read_checkpoint, unwrap_state_dict
from mmvmamba.conversion import to_mmengine, to_official
from mmvmamba.engine.arguments import add_arguments
from mmvmamba.engine.deferred_pretrained import defer_pretrained
from mmvmamba.engine.libraries import register_modules

SUFFIXES = ('.pth', '.safetensors')


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('out', type=Path, help='output file, .pth or .safetensors')
    parser.add_argument(
        '--to',
        choices=['mmengine', 'official'],
        default='mmengine',
        help='keys to write: those of mmdet, mmseg and mmpretrain, or those of the released files, which differ for a '
        'classifier (default: %(default)s)',
    )
    parser.add_argument('--config', help='model config, required if the model is not a released variant')
    parser.add_argument('--ema', action='store_true', help='use the averaged weights (model_ema)')
    add_arguments(parser, 'trust_checkpoint')
    args = parser.parse_args(argv)
    if args.out.suffix not in SUFFIXES:
        parser.error(f'{args.out} must end in {" or ".join(SUFFIXES)}')
    if args.out.exists():
        parser.error(f'{args.out} exists already')
    return args


def main(argv=None):
    args = parse_args(argv)
    try:
        checkpoint = read_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
        state_dict = unwrap_state_dict(checkpoint, args.checkpoint, args.ema)
        found = to_mmengine(state_dict, build(args.config) if args.config else None, args.checkpoint)
    except CheckpointError as error:
        sys.exit(f'{args.checkpoint} is not converted: {str(error).removeprefix(f"{args.checkpoint}: ")}')
    save(to_official(found.tensors) if args.to == 'official' else found.tensors, checkpoint.get('meta'), args.out)
    print(f'{args.checkpoint} -> {args.out}: {found.report()}')


def build(config):
    cfg = Config.fromfile(config)
    scope = cfg.default_scope
    register_modules(scope)
    defer_pretrained(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg.model)


def save(tensors, meta, out):
    # Clone the tensors, because saving a view would save its whole storage.
    tensors = OrderedDict((name, tensor.detach().clone().contiguous()) for name, tensor in tensors.items())
    if out.suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(tensors, out, metadata={'format': 'pt'})
        return
    if any(name.startswith('backbone.') for name in tensors):
        classes = {key: meta[key] for key in ('dataset_meta', 'CLASSES') if key in meta} if meta else {}
        torch.save({'state_dict': tensors, 'meta': classes}, out)
    else:
        torch.save({'model': tensors}, out)


if __name__ == '__main__':
    main()
