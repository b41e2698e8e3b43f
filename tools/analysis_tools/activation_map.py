"""Draws the scan attention of a VMamba or Vim block at a query position, for each traversal, over the image.

The maps show the exact weights with which the selective scan sums its input at that position, averaged over channels
(mmvmamba/analysis/scans.py). Each map is normalised by its largest weight outside the query, because the weight of the
query itself is often the largest. The paths of the traversals are drawn above the maps. With --statistics, a second
figure shows the time steps and the memory of all blocks.

    python tools/analysis_tools/activation_map.py IMAGE VMamba-T vssm1_tiny_0230s_ckpt_epoch_264.pth --query 320 200
    python tools/analysis_tools/activation_map.py IMAGE CONFIG.py CHECKPOINT --stage 1 --statistics steps.png
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger

from mmvmamba.engine.libraries import missing_package

try:
    import matplotlib
    import mmcv  # noqa: F401, needed by mmvmamba.analysis
    from matplotlib import pyplot as plt
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.analysis.networks import build_backbone, read_photograph, to_input
from mmvmamba.analysis.scans import TokenLayout, record_scans, scan_attention, scan_order, statistics
from mmvmamba.engine.arguments import add_arguments
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.tool_session import tool_session

MULTIPLE = 32  # the stride of the last stage, so that the maps of all stages cover the image exactly
POWER = 0.5  # display exponent that makes small weights visible


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('image', help='image file; it is resized so that its sides are multiples of 32')
    parser.add_argument('network', help='config file with a VMamba or Vim backbone, or a name such as VMamba-T')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file or URL (default: random weights)')
    parser.add_argument(
        '--query',
        type=int,
        nargs=2,
        action='append',
        metavar=('X', 'Y'),
        help='query pixel of the image; may be repeated (default: the centre)',
    )
    parser.add_argument('--stage', type=int, help='stage index from 0; Vim has one stage (default: 2, or the last)')
    parser.add_argument('--block', type=int, default=-1, help='block index in the stage (default: -1, the last)')
    parser.add_argument('--size', type=int, help='resize the longer side of the image to this (default: no resizing)')
    parser.add_argument('--signed', action='store_true', help='average the signed instead of the absolute weights')
    parser.add_argument(
        '--out', default='activation_map.png', help='output figure; a .npz file is written next to it (%(default)s)'
    )
    parser.add_argument('--statistics', help='also write a figure of the time steps and the memory of all blocks here')
    add_arguments(parser, 'device', 'trust_checkpoint')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    matplotlib.use('Agg')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tool_session(args):
        backbone = build_backbone(args.network, args.checkpoint).to(args.device)
        names = block_names(backbone, args.network)
        block = choose_block(names, args.stage, args.block)
        photograph, scale = load(args.image, args.size)
        centre = [side / factor / 2 for side, factor in zip(photograph.shape[1::-1], scale)]
        image = to_input(photograph, args.device)

        (scan,) = record_scans(backbone, image, [block])
        layout = TokenLayout.of(backbone, scan, photograph.shape[:2])
        positions = [place(query, scale, photograph.shape, layout) for query in args.query or [centre]]
        weights = [layout.to_map(scan_attention(scan, *layout.in_scan(*position))).cpu() for position in positions]
        np.savez_compressed(
            Path(args.out).with_suffix('.npz'),
            weights=np.stack(weights),  # (queries, traversals, height, width, channels)
            positions=positions,  # row and column in the map
            traversals=scan.traversals,
        )
        draw_maps(photograph, scan.traversals, layout, positions, weights, args, names[block])
        print(f'Written to {args.out} and {Path(args.out).with_suffix(".npz")}')
        if args.statistics:
            draw_statistics(record_scans(backbone, image), names, args.statistics)
            print(f'Written to {args.statistics}')


def block_names(backbone, network):
    """Returns (stage, block) of each scan, in the order of the calls."""
    if not hasattr(backbone, 'layers') or not hasattr(backbone, 'num_blocks'):
        raise LaunchError(f'{network} has no selective scans: its backbone is {type(backbone).__name__}')
    stages = [layer.blocks for layer in backbone.layers if hasattr(layer, 'blocks')] or [backbone.layers]
    return [(stage, block) for stage, blocks in enumerate(stages) for block in range(len(blocks))]


def choose_block(names, stage, block):
    last = names[-1][0]
    stage = min(2, last) if stage is None else stage
    inside = [index for index, name in enumerate(names) if name[0] == stage]
    if not -len(inside) <= block < len(inside):
        counts = ', '.join(str(sum(name[0] == each for name in names)) for each in range(last + 1))
        raise LaunchError(f'there is no block {block} in stage {stage}: the stages have {counts} blocks')
    return inside[block]


def load(path, size):
    """Reads the image, resizes its sides to multiples of 32, and returns it with its scale factors in x and y."""
    photograph = read_photograph(path)
    height, width = photograph.shape[:2]
    scale = size / max(height, width) if size else 1.0
    new_height, new_width = (max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in (height, width))
    return read_photograph(path, new_height, new_width), (new_width / width, new_height / height)


def place(query, scale, shape, layout):
    """Returns the row and column of the map that contain a pixel of the image."""
    x, y = (value * factor for value, factor in zip(query, scale))
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        raise LaunchError(f'--query {query[0]} {query[1]} lies outside the photograph')
    left, right, bottom, top = frame(shape, layout)
    row, column = (y - top) / (bottom - top) * layout.height, (x - left) / (right - left) * layout.width
    return min(max(int(row), 0), layout.height - 1), min(max(int(column), 0), layout.width - 1)


def frame(shape, layout):
    """Returns left, right, bottom and top of the map in pixels; overlapping patches leave a margin at the borders."""
    height, width = shape[:2]
    stride = max(1, width // layout.width)
    left, top = (width - layout.width * stride) / 2, (height - layout.height * stride) / 2
    return left, width - left, height - top, top


# Figures


def draw_maps(photograph, traversals, layout, positions, weights, args, block):
    """Draws one row per query: the image, the attention of each traversal, and their sum, below the scan paths.

    If the image is more than twice as wide as high, the queries are columns, so that the panels can be larger.
    """
    names = ['query', *traversals, 'all']
    aspect = photograph.shape[0] / photograph.shape[1]
    is_wide = aspect < 0.5
    shares = [0.3 if is_wide else 0.6] + [1] * len(positions)
    if is_wide:
        size = 4 * sum(shares), 4 * aspect * len(names) + 0.5
        figure, axes = plt.subplots(len(names), len(shares), figsize=size, width_ratios=shares, layout='constrained')
        axes = axes.T
    else:
        size = 2.3 * len(names), 2.3 * aspect * (len(positions) + 0.7) + 0.5
        figure, axes = plt.subplots(len(shares), len(names), figsize=size, height_ratios=shares, layout='constrained')
    for axis, name in zip(axes[0], names):
        axis.set_axis_off()
        if name in traversals:
            draw_path(axis, scan_order(name, 4, 6).numpy())
        title = name.replace('_', ' ')
        if is_wide and name not in traversals:
            axis.text(0.5, 0.5, title, ha='center', transform=axis.transAxes)
        else:
            axis.set_title(title, fontsize=10)
    for row, (position, each) in zip(axes[1:], zip(positions, weights)):
        maps = [*each, each.sum(0)]
        row[0].imshow(photograph)
        row[0].set(xticks=[], yticks=[])
        for axis, values in zip(row[1:], maps):
            overlay(axis, photograph, relative(values, position, args.signed), args.signed, layout)
        for axis in row:
            mark_query(axis, position, photograph.shape, layout)
    stage, number = block
    weights_name = 'signed weights' if args.signed else 'absolute weights'
    figure.suptitle(f'{Path(args.network).stem}, stage {stage}, block {number}: {weights_name}', fontsize=10)
    figure.savefig(args.out, dpi=110)
    plt.close(figure)


def relative(values, position, signed):
    """(h, w, d) -> (h, w), -1 to 1: the mean over channels, normalised by the largest value outside the query."""
    values = (values if signed else values.abs()).mean(-1).numpy()
    others = abs(values)
    others[position] = 0
    return (values / (others.max() or 1)).clip(-1, 1)


def overlay(axis, photograph, values, signed, layout):
    axis.imshow(photograph.mean(-1), cmap='gray', vmin=0, vmax=255)
    strength = abs(values) ** POWER
    axis.imshow(
        np.sign(values) * strength,
        cmap='coolwarm' if signed else 'inferno',
        vmin=-1 if signed else 0,
        vmax=1,
        alpha=0.25 + 0.7 * strength,
        extent=frame(photograph.shape, layout),
        interpolation='nearest',
    )
    axis.set(xlim=(0, photograph.shape[1]), ylim=(photograph.shape[0], 0), xticks=[], yticks=[])


def mark_query(axis, position, shape, layout):
    """Draws a rectangle around the query."""
    left, right, bottom, top = frame(shape, layout)
    width, height = (right - left) / layout.width, (bottom - top) / layout.height
    corner = left + position[1] * width, top + position[0] * height
    axis.add_patch(plt.Rectangle(corner, width, height, fill=False, edgecolor='cyan', linewidth=1.5))


def draw_path(axis, positions):
    """Draws the scan order of a small map, from the dot to the arrowhead."""
    rows, columns = positions.T
    axis.plot(columns, rows, color='0.3', linewidth=1.2, zorder=1)
    axis.plot(columns, rows, '.', color='0.6', markersize=3)
    axis.plot(columns[0], rows[0], 'o', color='tab:green', markersize=6)
    axis.annotate(
        '',
        (columns[-1], rows[-1]),
        (columns[-2], rows[-2]),
        arrowprops=dict(arrowstyle='-|>', color='tab:red', linewidth=1.5, mutation_scale=12),
    )
    axis.set(xlim=(-0.5, columns.max() + 0.5), ylim=(rows.max() + 0.5, -0.5), aspect='equal')


def draw_statistics(scans, names, out):
    """Plots time step and memory per block, one column per traversal: the median, and bands of 50 and 90 %."""
    traversals = scans[0].traversals
    blocks = np.arange(len(names))
    per_scan = [[statistics(scan, k) for k in range(len(scan.codes))] for scan in scans]
    firsts = [index for index in blocks if index == 0 or names[index][0] != names[index - 1][0]]
    size = max(3, 0.12 * len(names) + 1) * len(traversals), 5.5
    figure, axes = plt.subplots(2, len(traversals), figsize=size, sharex=True, sharey='row', layout='constrained')
    for row, field, label in zip(axes, ('step', 'memory'), ('time step', 'memory, positions (-1 / log decay)')):
        values = np.array([[getattr(each, field) for each in block] for block in per_scan])  # (blocks, K, 5)
        for k, axis in enumerate(row):
            for low, high, alpha, text in ((0, 4, 0.2, '90 %'), (1, 3, 0.4, '50 %')):
                band = values[:, k, low], values[:, k, high]
                axis.fill_between(blocks, *band, color='C0', alpha=alpha, lw=0, label=text)
            axis.plot(blocks, values[:, k, 2], '.-', color='C0', label='median')
            for first in firsts[1:]:
                axis.axvline(first - 0.5, color='0.7', lw=0.8)
            axis.set(yscale='log', xticks=firsts)
            axis.set_xticklabels([f'stage {names[first][0]}' for first in firsts], fontsize=8, ha='left')
            axis.grid(axis='y', alpha=0.3)
        row[0].set_ylabel(label)
    for axis, traversal in zip(axes[0], traversals):
        axis.set_title(traversal.replace('_', ' '), fontsize=10)
    figure.supxlabel('block', fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=3, loc='outside upper right')
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == '__main__':
    main()
