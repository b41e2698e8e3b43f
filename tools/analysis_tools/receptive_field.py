"""Draws the effective receptive fields of backbones, and prints how large a part of the image they fill.

The field is that of the centre of the last map, averaged over photographs (mmvmamba/analysis/receptive_field.py). With
a checkpoint, a network is shown before and after loading it.

    python tools/analysis_tools/receptive_field.py --images FOLDER VMamba-T ResNet-50
    python tools/analysis_tools/receptive_field.py --images FOLDER VMamba-T=vssm1_tiny_0230s_ckpt_epoch_264.pth
    python tools/analysis_tools/receptive_field.py --images FOLDER CONFIG.py=work_dirs/CONFIG/epoch_12.pth
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.utils import track_iter_progress

from mmvmamba.analysis.networks import NETWORKS, build_backbone, find_photographs, read_photograph, to_input
from mmvmamba.analysis.receptive_field import area_holding, receptive_field
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.launch import launching

SHARES = (0.2, 0.3, 0.5, 0.99)
POWER = 0.2  # for display, as in the VMamba paper: the gradients span many orders of magnitude


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        'networks',
        nargs='+',
        metavar='NETWORK[=CHECKPOINT]',
        help=f'config file of mmdet, mmseg or mmpretrain, or one of {", ".join(NETWORKS)}',
    )
    parser.add_argument('--images', required=True, help='folder of photographs')
    parser.add_argument('--num', type=int, default=50, help='use the first of them (default: %(default)s)')
    parser.add_argument('--size', type=int, default=1024, help='side that they are resized to (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the random weights (default: %(default)s)')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--out', default='receptive_field.png', help='picture; a .npz goes beside it (%(default)s)')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold more than data; this runs the code that they name',
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with launching(args):
        paths = find_photographs(args.images)[: args.num]
        fields = {}
        refuse_repetitions(args.networks)
        for network in args.networks:
            name, _, checkpoint = network.partition('=')
            for weights in [None, checkpoint] if checkpoint else [None]:
                torch.manual_seed(args.seed)
                backbone = build_backbone(name, weights).to(args.device)
                photographs = (read_photograph(path, args.size, args.size) for path in paths)
                images = (to_input(photograph, args.device) for photograph in photographs)
                label = (short_name(name), 'trained' if weights else 'random weights')
                print(*label, sep=', ')
                fields[label] = receptive_field(backbone, track_iter_progress((images, len(paths)))).numpy()
                print()
        print_areas(fields)
        np.savez_compressed(
            Path(args.out).with_suffix('.npz'), **{', '.join(label): field for label, field in fields.items()}
        )
        draw(fields, args.out)
        print(f'Written to {args.out} and {Path(args.out).with_suffix(".npz")}')


def short_name(name):
    return Path(name).stem if name.endswith('.py') else name


def refuse_repetitions(networks):
    names = [short_name(network.partition('=')[0]) for network in networks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LaunchError(f'{twice[0]} is there twice, and the picture has one place for it: run once for each')


def print_areas(fields):
    print('Part of the image that holds this much of the receptive field')
    width = max(len(', '.join(label)) for label in fields)
    print(' ' * width + ''.join(f'{share:>8.0%}' for share in SHARES))
    for label, field in fields.items():
        areas = (area_holding(field, share) for share in SHARES)
        print(', '.join(label).ljust(width) + ''.join(f'{area:>8.1%}' for area in areas))


def draw(fields, out):
    """A column for each network, random weights above trained ones; each field relative to its largest value."""
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for name, _ in fields))
    rows = list(dict.fromkeys(weights for _, weights in fields))
    figure, axes = plt.subplots(
        len(rows), len(names), figsize=(2.4 * len(names) + 0.9, 2.75 * len(rows)), squeeze=False, layout='constrained'
    )
    for row, weights in zip(axes, rows):
        for axis, name in zip(row, names):
            field = fields.get((name, weights))
            if field is None:
                axis.set_axis_off()
                continue
            shown = axis.imshow((field / field.max()) ** POWER, cmap='magma', vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.set_title(name.replace('_', '\n') if weights == rows[0] else '', fontsize=10)
            axis.set_xlabel(f'half of it in {area_holding(field, 0.5):.1%}', fontsize=9)
        row[0].set_ylabel(weights)
    figure.colorbar(shown, ax=axes, label=f'(gradient / largest)$^{{{POWER}}}$', shrink=0.8)
    figure.savefig(out, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    main()
