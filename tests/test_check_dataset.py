"""Tests tools/analysis_tools/check_dataset.py: it reports every problem of a dataset, one per line."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('skimage')

ROOT = Path(__file__).parents[1]
DETECTION, SEGMENTATION = 'mask-rcnn_vmamba-demo_fpn_coins.py', 'vmamba-demo_upernet_coins.py'
ANNOTATIONS = 'annotations/instances_training.json'


@pytest.fixture(scope='module')
def coins(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coins')
    script = ROOT / 'tools/dataset_converters/coins.py'
    subprocess.run([sys.executable, script, '--out-dir', folder], check=True)
    return folder


@pytest.fixture
def data(coins, tmp_path):
    return Path(shutil.copytree(coins, tmp_path / 'coins'))


@pytest.fixture
def check(data, capsys):
    """Returns a function that runs the tool and returns its exit status and lines."""
    spec = importlib.util.spec_from_file_location('check_dataset', ROOT / 'tools/analysis_tools/check_dataset.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(config, *options, settings=()):
        roots = [f'{stage}_dataloader.dataset.data_root={data}' for stage in ('train', 'val', 'test')]
        if config == DETECTION:
            metric = f'ann_file={data}/annotations/instances_validation.json'
            roots += [f'val_evaluator.{metric}', f'test_evaluator.{metric}']
        status = 0
        try:
            module.main([str(ROOT / 'configs/demo' / config), *options, '--cfg-options', *roots, *settings])
        except SystemExit as end:
            status = end.code
        lines = capsys.readouterr().out.splitlines()
        return status, [line for line in lines if line.startswith(('train: ', 'val: ', 'test: '))]

    return run


def alter(data, change):
    content = json.loads((data / ANNOTATIONS).read_text())
    change(content)
    (data / ANNOTATIONS).write_text(json.dumps(content))


@pytest.mark.parametrize('config', [DETECTION, SEGMENTATION])
def test_an_undamaged_dataset_has_no_problems(config, check):
    assert check(config) == (0, ['train: no problems', 'val: no problems', 'test: same as val'])


def test_every_fault_of_an_annotation_file_is_reported(data, check):
    def damage(content):
        content['annotations'][0]['bbox'] = [0, 0, 'wide', 1]
        content['annotations'][1].pop('category_id')
        content['annotations'][2]['segmentation'] = [[0, 0, 1]]

    alter(data, damage)
    status, lines = check(DETECTION)
    assert status == 1 and len(lines) == 6
    sentences = (r'annotation 1 has the bbox \[0, 0, .*, but it must be', 'annotation 2 has no category_id, but needs')
    for line, sentence in zip(lines, (*sentences, 'the segmentation of annotation 3 has a polygon of 3 numbers')):
        assert re.match(rf'train: .*{ANNOTATIONS}: {sentence}', line)
    assert lines[3:] == ['train: 3 problems', 'val: no problems', 'test: same as val']


def test_every_damaged_image_and_mask_is_reported(data, check):
    names = sorted(path.name for path in (data / 'images/training').iterdir())
    (data / 'images/training' / names[0]).write_bytes(b'')
    cv2.imwrite(str(data / 'annotations/training' / names[1]), np.zeros((10, 10), np.uint8))
    cv2.imwrite(str(data / 'annotations/training' / names[2]), np.full((256, 256), 7, np.uint8))
    status, lines = check(SEGMENTATION)
    assert status == 1 and lines[3] == 'train: 3 problems'
    assert re.match(rf'train: .*images/training/{names[0]} cannot be read as an image: it is empty', lines[0])
    assert re.match(rf'train: .*annotations/training/{names[1]} is 10 x 10 pixels, but the image .* is 256 x', lines[1])
    assert re.match(rf'train: .*annotations/training/{names[2]} has the class 7, but the dataset has', lines[2])


def test_missing_paths_of_all_stages_are_reported(data, check):
    shutil.rmtree(data / 'images')
    status, lines = check(SEGMENTATION)
    missing = [line for line in lines if 'does not exist' in line]
    assert status == 1
    assert ['images/training' in missing[0], 'images/validation' in missing[1], len(missing)] == [True, True, 2]


def test_heads_and_metrics_are_compared_with_the_dataset(data, check):
    path = data / 'annotations/instances_validation.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['segmentation'] = []
    path.write_text(json.dumps(content))
    status, lines = check(DETECTION, settings=['model.roi_head.bbox_head.num_classes=80'])
    assert status == 1
    assert (
        'bbox_head of the model has num_classes=80, but the number of classes of train_dataloader.dataset' in lines[0]
    )
    assert any(re.match('val: .*instances_validation.json: .*segmentation', line) for line in lines)


def test_annotations_that_execute_code_need_the_option(data, check):
    import pickle

    samples = [dict(img_path=str(path), instances=[]) for path in (data / 'images/training').iterdir()]
    samples[0]['instances'] = [dict(bbox=[0, 0, 9, 9], bbox_label=0, mask=[[0, 0, 9, 0, 9, 9]], ignore_flag=0)]
    for sample in samples:
        sample.update(img='', img_id=0, height=256, width=256)
    (data / 'annotations/mine.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=samples)))
    values = dict(type='BaseDetDataset', ann_file='annotations/mine.pkl')
    settings = [f'train_dataloader.dataset.{name}={value}' for name, value in values.items()]
    status, lines = check(DETECTION, settings=settings)
    assert status == 1 and 'mine.pkl is a pickle' in lines[0] and '--trust-annotations' in lines[0]
    assert check(DETECTION, '--trust-annotations', settings=settings)[1][0] == 'train: no problems'


def test_a_config_without_datasets_is_rejected(tmp_path):
    (tmp_path / 'empty.py').write_text("default_scope = 'mmdet'\n")
    tool = ROOT / 'tools/analysis_tools/check_dataset.py'
    done = subprocess.run([sys.executable, tool, tmp_path / 'empty.py'], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.match(r'check_dataset\.py: .*empty\.py has no train_dataloader', done.stderr.splitlines()[-1])


def test_what_may_be_intended_is_a_warning(data, check):
    """The exit status stays 0, and a sentence about a file that a dataset and a metric read appears once."""

    def enlarge(content):
        content['annotations'][0]['bbox'][2] = 300

    alter(data, enlarge)
    shutil.copy(data / ANNOTATIONS, data / 'annotations/instances_validation.json')
    shutil.copytree(data / 'images/training', data / 'images/validation', dirs_exist_ok=True)
    status, lines = check(DETECTION, settings=['val_dataloader.dataset.pipeline.1.scale_factor=3.0'])
    assert status == 0
    boxes, summary, val_boxes, scale, *_ = lines
    assert re.match(rf'train: warning: .*{ANNOTATIONS}: 1 of \d+ boxes exceed their image, .* annotation 1: ', boxes)
    assert summary == 'train: no problems'
    assert val_boxes.startswith('val: warning: ') and 'instances_validation.json: 1 of' in val_boxes
    assert re.match(r'val: warning: the pipeline of val_dataloader resizes images to 3 times their size', scale)


def test_masks_are_compared_with_each_other(data, check):
    for file in (data / 'annotations/training').iterdir():
        cv2.imwrite(str(file), 255 * cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    for file in (data / 'annotations/validation').iterdir():
        cv2.imwrite(str(file), 0 * cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    status, lines = check(SEGMENTATION)
    assert status == 1
    assert 'train: ' in lines[0] and 'have only the values 0 and 255, but 255 is ignored' in lines[0]
    assert re.match(r'val: warning: .*\.png has the single class 0 \(ground\), but the dataset has 2 classes', lines[2])
    assert lines[1::2] == ['train: 1 problem', 'val: no problems'] and len(lines) == 5
