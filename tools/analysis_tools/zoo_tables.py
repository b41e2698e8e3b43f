"""Generates the tables in configs/*/README.md from the metafiles, each after its marker <!-- table: NAME -->."""

import re
import sys
from argparse import ArgumentParser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ('Training Memory (GB)', 'Top 1 Accuracy', 'box AP', 'mask AP', 'mIoU', 'mIoU(ms+flip)')


def read_models(metafile: Path) -> list[dict]:
    return yaml.safe_load(metafile.read_text())['Models']


def read_zoo() -> list[dict]:
    """Returns the models of all metafiles in model-index.yml."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    return [model for metafile in index['Import'] for model in read_models(ROOT / metafile)]


def published(model: dict) -> dict:
    """Returns the published metrics and the published GPU memory for training."""
    metrics = {name: value for result in model.get('Results', []) for name, value in result['Metrics'].items()}
    return model.get('Published', {}) | metrics


def table(models: list[dict]) -> str:
    """Formats a table with one row per model. Columns without a published value are omitted."""
    columns = [name for name in COLUMNS if any(name in published(model) for model in models)]
    rows = [['Config', 'Backbone', 'Params', 'FLOPs', *(f'{name}, published' for name in columns), 'Weights']]
    rows.append([':--', ':--', '--:', '--:', *[':-:'] * len(columns), ':-:'])
    for model in models:
        metadata = model['Metadata']
        rows.append([
            f'[{model["Name"]}]({Path(model["Config"]).name})',
            metadata['Architecture'],
            f'{metadata["Parameters"] / 1e6:.1f}M',
            f'{metadata["FLOPs (G)"]:.1f}G',
            *(str(published(model).get(name, '-')) for name in columns),
            f'[official]({model["Weights"]})' if 'Weights' in model else '-',
        ])  # fmt: skip
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def fill(text: str, models: list[dict]) -> str:
    """Returns the text of a README with its tables replaced by those of the metafile.

    Raises:
        ValueError: the README does not have a marker for a table, or has a marker without a table.
    """
    names = list(dict.fromkeys(model['Table'] for model in models))
    places = re.findall(r'<!-- table: (.+?) -->', text)
    if sorted(names) != sorted(places):
        raise ValueError(f'tables of the metafile: {", ".join(names)}; of the README: {", ".join(places)}')
    for name in names:
        rows = table([model for model in models if model['Table'] == name])
        place = rf'(<!-- table: {re.escape(name)} -->\n).*?(<!-- end of table -->)'
        text = re.sub(place, lambda found, rows=rows: f'{found[1]}\n{rows}\n\n{found[2]}', text, flags=re.DOTALL)
    return text


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='do not write; fail if a README differs from its metafile')
    args = parser.parse_args(argv)
    differ = False
    for metafile in sorted(ROOT.glob('configs/*/metafile.yml')):
        readme = metafile.with_name('README.md')
        old = readme.read_text()
        new = fill(old, read_models(metafile))
        if new == old:
            continue
        differ = True
        if not args.check:
            readme.write_text(new)
        print(f'{readme.relative_to(ROOT)}: {"differs from its metafile" if args.check else "written"}')
    sys.exit(differ and args.check)


if __name__ == '__main__':
    main()
