"""Tests README and docs: links resolve, commands name existing files, configs build, quoted errors match the code."""

import ast
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for pattern in ('*.md', 'docs/*.md', 'configs/*/*.md', 'benchmarks/*.md') for page in ROOT.glob(pattern)
)
FOLDERS = ('benchmarks', 'configs', 'demo', 'docs', 'tests', 'tools')
HISTORY = ROOT / 'benchmarks' / 'LOG.md', ROOT / 'CHANGELOG.md'  # they name files as they were then
# Files that the reader creates, and a folder that only the wheel has.
NOT_IN_THE_REPOSITORY = {
    'configs/demo/CONFIG.py',
    'configs/_base_/datasets/name.py',
    'configs/vmamba/mask-rcnn_vmamba-t-s1l5_fpn_1x_coco.py',
    'mmvmamba/ops/scan/name.py',
    'mmvmamba/.mim',
}


def blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.M | re.S)


def anchors(page):
    titles = re.findall(r'^#+ (.*)', page.read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    links = re.findall(r'\]\(([^)\s]+)\)', re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S))
    dead = []
    for link in links:
        if link.startswith(('http://', 'https://')):
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_existing_files(page):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    missing = []
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ['make']:
                missing += [word for word in words[1:] if '=' not in word and word not in targets]
            missing += [word for word in words if word.startswith(tuple(f'{f}/' for f in FOLDERS)) and not known(word)]
    assert not missing


@pytest.mark.parametrize(
    'page', [page for page in PAGES if page not in HISTORY], ids=lambda page: str(page.relative_to(ROOT))
)
def test_paths_in_the_text_exist(page):
    folders = (*FOLDERS, 'mmvmamba', *(path.name for path in (ROOT / 'mmvmamba').iterdir() if path.is_dir()))
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    words = {word for span in re.findall(r'`([^`\n]+)`', text) for word in span.split()}
    paths = [
        word for word in words - NOT_IN_THE_REPOSITORY if re.fullmatch(rf'(?:{"|".join(folders)})/[\w./*-]*\w', word)
    ]
    assert not [path for path in paths if not known(path) and not here(f'mmvmamba/{path}')]


def here(path):
    return any(ROOT.glob(path))


def known(path):
    path = re.sub(r'\$\w+', '*', path)  # a variable of the shell
    return here(path) or path.startswith('configs/your_data/my_')  # the reader's copies of the configs there


def configs():
    for page in PAGES:
        for number, block in enumerate(blocks(page, 'python')):
            if '_base_ =' in block and 'FlexibleRunner' not in block and not page.name.startswith('your_data'):
                yield pytest.param(block, id=f'{page.name}-{number}')


def load(block, tmp_path):
    """Loads the config of a code block without its weights; `_base_` is found here or in an installed library."""
    base = re.search(r"_base_ = '(.*)'", block)[1].replace('../mmsegmentation/configs/', 'mmseg::')
    if '::' in base:
        library, name = base.split('::')
        base = Path(pytest.importorskip(library).__file__).parent / '.mim/configs' / name
    (tmp_path / 'mine.py').write_text(re.sub(r'_base_ = .*', f'_base_ = {str(ROOT / base)!r}', block))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.parametrize('block', configs())
def test_configs_build(block, tmp_path):
    """Feature maps have the strides that the heads expect, and every backbone parameter gets a gradient."""
    cfg = load(block, tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()  # in training mode, a dropped block has no gradient
    maps = model.extract_feat(torch.rand(1, 3, 64, 64))
    strides = dict(RetinaNet=(8, 16, 32, 64, 128), MaskRCNN=(4, 8, 16, 32, 64)).get(cfg.model.type)
    if strides:
        assert [map.shape[-1] for map in maps] == [64 // stride or 1 for stride in strides]
    sum(map.sum() for map in maps).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


def test_models_of_the_readme_have_the_published_results_and_weights():
    published = '\n'.join(path.read_text() for path in ROOT.glob('configs/*/README.md'))
    table = (ROOT / 'README.md').read_text().partition('\n## Models\n')[2].partition('\n## ')[0]
    results = re.findall(r'\[([\d. /]+)\]\((https://[^)]+)\)', table)
    assert len(results) == 11
    for numbers, weights in results:
        rows = [row for row in published.splitlines() if f'[official]({weights})' in row]
        assert rows and all(f'| {number} |' in rows[0] for number in numbers.split(' / ')), weights


def test_badges_have_the_supported_versions():
    badges = (ROOT / 'docs/badges.svg').read_text()
    project = (ROOT / 'pyproject.toml').read_text()
    pythons = re.search(r'You need Linux, Python (3\.\d+ to 3\.\d+)', (ROOT / 'README.md').read_text())
    torch_version = re.search(r'^torch==(\d+\.\d+)', (ROOT / 'requirements.txt').read_text(), re.M)
    assert f'>{pythons[1]}<' in badges and f'>{torch_version[1]}<' in badges
    assert 'Apache-2.0' in badges and 'Apache-2.0' in project


@pytest.mark.slow
def test_fsdp_on_two_ranks_trains_and_saves_the_whole_model(tmp_path):
    """Runs FSDP on the CPU as docs/many_gpus.md describes: one step, then a checkpoint of the whole model."""
    pytest.importorskip('skimage')
    whole, for_cpu, *_ = blocks(ROOT / 'docs/many_gpus.md', 'python')
    (tmp_path / 'fsdp.py').write_text(whole.replace("'configs/", f"'{ROOT}/configs/"))
    (tmp_path / 'cpu.py').write_text(f"_base_ = 'fsdp.py'\n{for_cpu}")
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/coins.py', '--out-dir', tmp_path / 'data/coins'])
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        environment = {**os.environ, 'PYTHON': sys.executable, 'PORT': str(free.getsockname()[1])}
    command = ['bash', ROOT / 'tools/dist_train.sh', 'cpu.py', '2', '--work-dir', 'run', '--cfg-options']
    options = ['train_cfg.max_iters=1', 'train_cfg.val_interval=9', 'default_hooks.checkpoint.interval=1']
    done = subprocess.run(
        [*map(str, command), *options],
        cwd=tmp_path,
        env=environment | {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(tmp_path / 'run/iter_1.pth', weights_only=False)
    cfg = Config.fromfile(tmp_path / 'fsdp.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        shapes = {name: tensor.shape for name, tensor in MODELS.build(cfg.model).state_dict().items()}
    assert {name: tensor.shape for name, tensor in saved['state_dict'].items()} == shapes


def strings():
    """Returns all string literals of the package and its tools; interpolated values become an ellipsis."""
    for folder in ('mmvmamba', 'tools', 'demo'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield ''.join(part.value if isinstance(part, ast.Constant) else '…' for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_quoted_errors_match_the_code():
    rows = re.findall(r'^\| (.*?) \| ', (ROOT / 'docs/troubleshooting.md').read_text(), re.M)
    others = re.compile(r"\((PyTorch|Python|MMEngine|onnxruntime|OpenVINO)'s\)")
    own = [quote for row in rows if not others.search(row) for quote in quotes(row)]
    said = list(strings())
    patterns = {quote: '.*'.join(map(re.escape, quote.split('…'))) for quote in own}
    assert len(own) > 40
    assert not [q for q, pattern in patterns.items() if not any(re.search(pattern, s, re.S) for s in said)]


def quotes(row):
    return re.findall(r'`([^`]+)`', row)
