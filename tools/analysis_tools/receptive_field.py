"""Draws the effective receptive fields of backbones and prints the fraction of the image that they cover.

The receptive field is that of the centre of the last map, averaged over images (mmvmamba/analysis/receptive_field.py).
If a checkpoint is given, the network is shown before and after loading it.

    python tools/analysis_tools/receptive_field.py --images FOLDER VMamba-T ResNet-50
    python tools/analysis_tools/receptive_field.py --images FOLDER VMamba-T=vssm1_tiny_0230s_ckpt_epoch_264.pth
    python tools/analysis_tools/receptive_field.py --images FOLDER CONFIG.py=work_dirs/CONFIG/epoch_12.pth
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.utils import track_iter_progress

from mmvmamba.engine.libraries import missing_package

try:
    import matplotlib
    import mmcv  # noqa: F401, needed by mmvmamba.analysis
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.analysis.networks import NETWORKS, build_backbone, find_photographs, read_photograph, to_input
from mmvmamba.analysis.receptive_field import area_holding, receptive_field
from mmvmamba.engine.arguments import add_arguments
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.tool_session import tool_session

SHARES = (0.2, 0.3, 0.5, 0.99)
POWER = 0.2  # display exponent of the VMamba paper; the gradients span many orders of magnitude


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        'networks',
        nargs='+',
        metavar='NETWORK[=CHECKPOINT]',
        help=f'mmdet, mmseg or mmpretrain config file, or one of {", ".join(NETWORKS)}',
    )
    parser.add_argument('--images', required=True, help='folder with images')
    parser.add_argument('--num', type=int, default=50, help='use only the first images (default: %(default)s)')
    parser.add_argument('--size', type=int, default=1024, help='side to resize the images to (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random weights (default: %(default)s)')
    add_arguments(parser, 'device', 'trust_checkpoint')
    parser.add_argument(
        '--out', default='receptive_field.png', help='output figure; a .npz file is written next to it (%(default)s)'
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tool_session(args):
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
        raise LaunchError(f'{twice[0]} is given twice: run the tool once for each of them')


def print_areas(fields):
    print('Fraction of the image that contains the given share of the receptive field')
    width = max(len(', '.join(label)) for label in fields)
    print(' ' * width + ''.join(f'{share:>8.0%}' for share in SHARES))
    for label, field in fields.items():
        areas = (area_holding(field, share) for share in SHARES)
        print(', '.join(label).ljust(width) + ''.join(f'{area:>8.1%}' for area in areas))


def wrapped(name):
    """Breaks the name of a config after underscores, into lines that fit above a panel."""
    return fill(name.replace('_', '_ '), 24, break_on_hyphens=False).replace('_ ', '_')


def draw(fields, out):
    """Draws one column per network, random above trained weights; each field is normalised by its largest value."""
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
            axis.set_title(wrapped(name) if weights == rows[0] else '', fontsize=9)
            axis.set_xlabel(f'50% in {area_holding(field, 0.5):.1%} of the image', fontsize=9)
        row[0].set_ylabel(weights)
    figure.colorbar(shown, ax=axes, label=f'(gradient / largest)$^{{{POWER}}}$', shrink=0.8)
    figure.savefig(out, dpi=120, bbox_inches='tight')
    plt.close(figure)


if __name__ == '__main__':
    main()
