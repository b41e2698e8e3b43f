"""Follows docs/your_data_*.md literally, on small datasets as users bring them: three classes, id gaps, RLE, JPEG."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

cv2 = pytest.importorskip('cv2')

import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DATASETS, MODELS, DefaultScope  # noqa: E402

from tests import own_data  # noqa: E402

ROOT = Path(__file__).parents[1]
LIBRARY = dict(instances='mmdet', masks='mmseg', folders='mmpretrain')
METRIC = dict(instances='coco/segm_mAP', masks='mIoU', folders='accuracy/top1', bands='mIoU')
SHORT = 'train_cfg.max_iters=2 train_cfg.val_interval=2'


def page(kind, language):
    text = (ROOT / f'docs/your_data_{kind}.md').read_text()
    return [block for name, block in re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S) if name == language]


@pytest.fixture(params=LIBRARY)
def kind(request):
    pytest.importorskip(LIBRARY[request.param])
    return request.param


@pytest.fixture
def place(tmp_path):
    """An empty folder with a copy of the configs, and the tools."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    for folder in ('tools', 'demo'):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path


def run(commands, place):
    return subprocess.run(
        ['bash', '-euc', f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n{commands}'],
        cwd=place,
        env=os.environ | {'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )


def pictures_below(folder):
    return [path for path in folder.rglob('*') if path.suffix in ('.png', '.jpg')]


def follow(kind, place):
    """Runs the commands of a page on a new dataset. Only the training is shorter."""
    getattr(own_data, kind)(place / 'data/mine')
    commands = ''.join(page(kind, 'bash'))
    train = f'tools/train.py configs/your_data/my_{kind}.py'
    assert train in commands
    done = run(commands.replace(train, f'{train} --cfg-options {SHORT}'), place)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'train: no problems' in done.stdout and 'val: no problems' in done.stdout
    assert 'Traceback' not in done.stderr
    [metrics] = place.glob('work_dirs/*/*/*.json')
    assert METRIC[kind] in json.loads(metrics.read_text())
    assert pictures_below(place / 'outputs')


@pytest.mark.slow
def test_commands_of_the_page_run(kind, place):
    """mmdet's and mmseg's browse_dataset.py draw the same data."""
    follow(kind, place)
    assert len(pictures_below(place / 'pictures')) == dict(instances=2, masks=4, folders=12)[kind]
    if kind != 'folders':  # docs/mm_tools.md: that of mmpretrain does not run with the pinned matplotlib
        tools = Path(importlib.util.find_spec(LIBRARY[kind]).submodule_search_locations[0], '.mim/tools')
        tool = shlex.quote(str(tools / 'analysis_tools/browse_dataset.py'))
        done = run(f'python {tool} configs/your_data/my_{kind}.py --not-show --output-dir browse', place)
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(pictures_below(place / 'browse')) >= 4


def test_the_page_quotes_the_first_lines_of_the_config(kind):
    layout, settings = page(kind, '')
    assert layout.startswith('data/mine/') and settings.startswith('data_root = ')
    assert settings in (ROOT / f'configs/your_data/{kind}.py').read_text()


def test_configs_have_nothing_of_the_demo_datasets(kind):
    text = Config.fromfile(ROOT / f'configs/your_data/{kind}.py').pretty_text
    assert not re.search(r'coin|digit|_delete_|palette=\[', text)


def test_two_numbers_set_the_sizes_of_training_and_testing(kind, tmp_path):
    """Objects have the same size in both: an image is resized to the same scale, or cropped to the same size."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    file = tmp_path / f'configs/your_data/{kind}.py'
    file.write_text(re.sub(r'(?m)^(\w+, \w+) = \d+, \d+', r'\1 = 1009, 503', file.read_text()))
    cfg = Config.fromfile(file)
    train, test = ({t.type: t for t in cfg[f'{part}_dataloader'].dataset.pipeline} for part in ('train', 'val'))
    if kind == 'folders':
        assert train['RandomResizedCrop'].scale == test['CenterCrop'].crop_size == 503
        assert test['ResizeEdge'].scale == 1009
    else:
        scale = dict(instances=(1009, 503), masks=(4 * 1009, 1009))[kind]
        assert train['RandomResize'].scale == test['Resize'].scale == scale
    if kind == 'masks':
        assert train['RandomCrop'].crop_size == cfg.model.data_preprocessor.size == (503, 503)


def released(kind, tmp_path):
    """The config after the changes of the last section: settings with the same name are replaced."""

    def settings(text):
        return {ast.unparse(node.targets[0]): ast.get_source_segment(text, node) for node in ast.parse(text).body}

    mine, changes = (ROOT / f'configs/your_data/{kind}.py').read_text(), page(kind, 'python')[-1]
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    file = tmp_path / f'configs/your_data/my_{kind}.py'
    file.write_text('\n'.join((settings(mine) | settings(changes)).values()))
    return Config.fromfile(file)


def test_vmamba_t_trains_on_the_same_data(kind, tmp_path, monkeypatch):
    """The heads have three classes, the recipe is that of the page, and the datasets load."""
    cfg = released(kind, tmp_path)
    getattr(own_data, kind)(tmp_path / 'data/mine')
    monkeypatch.chdir(tmp_path)
    if kind == 'instances':
        shutil.copy('data/mine/annotations.json', 'data/mine/training.json')
        shutil.copy('data/mine/annotations.json', 'data/mine/validation.json')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        training, _ = (DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
    assert {m.num_classes for n, m in model.named_modules() if re.search('(bbox|mask|decode|auxiliary)_head$', n)} <= {
        3
    }
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) > 2e7
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=200)
    assert training[0]['inputs'].shape[0] == 3
    assert '_delete_' not in cfg.pretty_text


def test_weights_to_start_from_can_be_set_on_the_command_line(kind):
    cfg = Config.fromfile(ROOT / f'configs/your_data/{kind}.py')
    options = {'init_cfg.type': 'Pretrained', 'init_cfg.checkpoint': 'weights.pth', 'frozen_stages': 2}
    cfg.merge_from_dict({f'model.backbone.{name}': value for name, value in options.items()})
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')
    assert cfg.model.backbone.frozen_stages == 2


def test_images_without_objects_are_used(tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    own_data.instances(tmp_path / 'data/mine')
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs/your_data/instances.py')
    cfg.train_dataloader.dataset.ann_file = 'annotations.json'
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 10
    assert sorted(len(dataset[index]['data_samples'].gt_instances) for index in range(10)) == [0, 2] + [3] * 8


@pytest.mark.slow
def test_boxes_without_masks_train(tmp_path):
    """The lines of the page, with `with_mask=False`, for annotations without segmentation."""
    pytest.importorskip('mmdet')
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    own_data.instances(tmp_path / 'data/mine')
    content = json.loads((tmp_path / 'data/mine/annotations.json').read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    for part in ('training', 'validation'):
        (tmp_path / f'data/mine/{part}.json').write_text(json.dumps(content))
    config = tmp_path / 'configs/your_data/my_boxes.py'
    text = (ROOT / 'configs/your_data/instances.py').read_text().replace('with_mask=True', 'with_mask=False')
    config.write_text(text + page('instances', 'python')[0])
    done = run(f'python {ROOT}/tools/train.py {config} --cfg-options {SHORT}', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'coco/bbox_mAP:' in done.stdout + done.stderr


@pytest.mark.slow
def test_commands_for_multi_band_images_run(place):
    """The pictures show the first three bands."""
    pytest.importorskip('mmseg')
    pytest.importorskip('tifffile')
    follow('bands', place)
    images = [cv2.imread(str(place / f'outputs/pictures/{number}.png')) for number in range(4)]
    assert {image.shape for image in images} == {(own_data.HEIGHT, own_data.WIDTH, 3)}
    assert all(image.std() > 10 for image in images)


@pytest.mark.slow
def test_gray_images_with_16_bits_train(place):
    """The lines of the page for one band; the demo and the pipeline load the same values."""
    pytest.importorskip('mmseg')
    own_data.masks(place / 'data/mine')
    for file in (place / 'data/mine/images').rglob('*.jpg'):
        cv2.imwrite(str(file.with_suffix('.tif')), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype('uint16') * 200)
        file.unlink()
    config = place / 'configs/your_data/my_gray.py'
    text = (ROOT / 'configs/your_data/four_bands.py').read_text()
    for line in page('bands', 'python')[1].splitlines():
        text = re.sub(rf'(?m)^{line.split(" = ")[0]} = .*$', line, text)
    config.write_text(text)
    done = run(
        f'python tools/train.py {config} --cfg-options {SHORT}\n'
        f'python demo/image_demo.py data/mine/images/validation {config} work_dirs/my_gray/iter_2.pth',
        place,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(pictures_below(place / 'outputs/labels')) == 4
