"""Builds every config of the model zoo and compares its parameters and FLOPs with the published numbers.

Parameters and FLOPs are counted as in get_flops.py. A published number of parameters must equal the counted number
after rounding, published FLOPs may differ by 2%, and the metafiles must contain the counted numbers. Differences are
marked. A difference fails the check unless the metafile explains it in a remark.
"""

import sys
from argparse import ArgumentParser
from fnmatch import fnmatch

from get_flops import build_empty, count_flops, count_parameters
from mmengine.config import Config
from mmengine.logging import MMLogger
from zoo_tables import ROOT, read_zoo

TOLERANCE = 0.02  # relative difference of FLOPs


def count(model: dict) -> tuple[int, float]:
    """Counts the parameters and GFLOPs of a zoo model at the input size in its metafile."""
    built = build_empty(Config.fromfile(ROOT / model['Config']))
    height, width = map(int, model['Metadata']['Input Size'].split('x'))
    return count_parameters(built), count_flops(built, (height, width)).total() / 1e9


def differences(model: dict, parameters: int, gflops: float) -> list[str]:
    """Lists the differences between the counted numbers and those of the metafile or the publication."""
    metadata, published = model['Metadata'], model.get('Published', {})
    found = []
    if (metadata.get('Parameters'), metadata.get('FLOPs (G)')) != (parameters, round(gflops, 2)):
        found.append(f'metafile: Parameters: {parameters}, FLOPs (G): {gflops:.2f} are counted')
    if published.get('Parameters (M)', parameters / 1e6) not in (parameters / 1e6, round(parameters / 1e6)):
        found.append('parameters')
    if abs(published.get('FLOPs (G)', gflops) / gflops - 1) > TOLERANCE:
        found.append('FLOPs')
    return found


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        'names', nargs='*', default=['*'], help="config names or patterns such as 'mask-rcnn_*' (default: all)"
    )
    args = parser.parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    unexplained = 0
    print(f'{"":<68}{"parameters":>12}{"published":>12}{"FLOPs":>11}{"published":>12}')
    for model in read_zoo():
        if not any(fnmatch(model['Name'], name) for name in args.names):
            continue
        parameters, gflops = count(model)
        published = model.get('Published', {})
        row = f'{model["Name"]:<68}{parameters / 1e6:>11.2f}M'
        row += f'{published["Parameters (M)"]:>11}M' if 'Parameters (M)' in published else f'{"-":>12}'
        row += f'{gflops:>10.1f}G'
        row += f'{published["FLOPs (G)"]:>11}G' if 'FLOPs (G)' in published else f'{"-":>12}'
        print(row, flush=True)
        found = differences(model, parameters, gflops)
        if found:
            print(f'    differs: {"; ".join(found)}')
            unexplained += 'Remark' not in model
        if 'Remark' in model:
            print(f'    {model["Remark"]}')
    sys.exit(bool(unexplained) and f'{unexplained} models differ without a remark in their metafile.')


if __name__ == '__main__':
    main()
