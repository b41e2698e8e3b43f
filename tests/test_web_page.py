"""Drives demo/app.py with Chromium. CONTRIBUTING.md names the packages that this needs."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('gradio')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('playwright')

import mmcv
from mmengine.registry import MODELS, DefaultScope
from playwright.sync_api import expect, sync_playwright

from mmvmamba.engine.arguments import load_config

CHROMIUM = shutil.which('chromium')
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason='chromium is not installed'),
]
ROOT = Path(__file__).parents[1]
DETECTOR, CLASSIFIER = 'mask-rcnn_vmamba-demo_fpn_coins', 'vmamba-demo_digits'
FOUND = re.compile(r'\d+ coin|nothing above 0.30')
SLOW, FAULTY = 333, 334  # widths of images for which the model takes a minute, or raises an unexpected error
SERVER = f"""
import runpy, sys
import torch
from mmvmamba.engine import inference

def predict(inferencer, images):
    if images[0].shape[1] == {SLOW}:
        for _ in range(1000):
            inferencer.model.backbone(torch.zeros(1, 3, 256, 256))
    if images[0].shape[1] == {FAULTY}:
        raise KeyError('palette')
    return original(inferencer, images)

original, inference.predict = inference.predict, predict
sys.argv = ['app.py', '--device', 'cpu', '--port', sys.argv[1]]
runpy.run_path({str(ROOT / 'demo/app.py')!r}, run_name='__main__')
"""
OPTIONS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking']
OPTIONS += ['--disable-component-update', '--disable-sync']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with two untrained models, as trainings would leave them, and images."""
    folder = tmp_path_factory.mktemp('page')
    for name in (CLASSIFIER, DETECTOR):
        cfg = load_config(ROOT / f'configs/demo/{name}.py')
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            state_dict = MODELS.build(cfg.model).state_dict()
        file = folder / 'work_dirs/demo' / name / 'iter_1.pth'
        file.parent.mkdir(parents=True)
        meta = dict(experiment_name=f'{name}_20260101_120000', dataset_meta=dict(classes=('coin',)))
        torch.save(dict(state_dict=state_dict, meta=meta), file)
        (file.parent / 'last_checkpoint').write_text(str(file))
    noise = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    mmcv.imwrite(noise, str(folder / 'data/coins/images/validation/example.png'))
    for name, size in dict(large=(7000, 2800), slow=(SLOW, 100), faulty=(FAULTY, 100), pixel=(1, 1)).items():
        mmcv.imwrite(np.asarray(mmcv.imresize(noise, size)), str(folder / f'{name}.png'))
    (folder / 'text.png').write_text('This is not an image.')
    return folder


@pytest.fixture(scope='module')
def server(folder):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    log = folder / 'log.txt'
    command = [sys.executable, '-c', SERVER, str(port)]
    with log.open('w') as output, subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process:
        try:
            while 'Running on local URL' not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield f'http://127.0.0.1:{port}', log
        finally:
            process.kill()


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page in a window and waits until the config is selected."""
    pages = []

    def visit(width=1280):
        page = browser.new_page(viewport=dict(width=width, height=900))
        pages.append(page)
        page.set_default_timeout(60_000)
        page.hosts, page.problems = set(), []
        page.on('request', lambda request: page.hosts.add(request.url.split('/')[2].split(':')[0]))
        page.on('pageerror', lambda error: page.problems.append(error))
        page.goto(server[0])
        expect(config(page)).not_to_have_value('', timeout=60_000)
        return page

    yield visit
    for page in pages:
        page.close()


def config(page):
    return page.get_by_label('Config that matches the checkpoint')


def status(page):
    return page.locator('#status')


def upload(page, file):
    if page.get_by_label('Remove Image').count():
        page.get_by_label('Remove Image').click()
    page.locator('#image input[type=file]').set_input_files(file)
    page.get_by_label('Remove Image').wait_for()


def find(page, says):
    page.get_by_role('button', name='Find').click()
    expect(status(page)).to_contain_text(says, timeout=60_000)
    expect(page.get_by_role('button', name='Find')).to_be_enabled()


def set_threshold(page, value):
    field = page.get_by_label('number input for Confidence threshold')
    field.fill(value)
    field.blur()


def test_page_starts_with_the_demo_model_and_an_example_and_loads_nothing_from_other_hosts(visit):
    page = visit()
    expect(page.get_by_label('Checkpoint (file or URL)')).to_have_value(f'demo/{DETECTOR}')
    expect(config(page)).to_have_value(DETECTOR)
    expect(page.locator('#image img')).to_have_attribute('src', re.compile(r'example\.png$'))
    assert page.hosts == {'127.0.0.1'} and not page.problems


def test_predictions_threshold_and_attention(visit):
    page = visit()
    find(page, FOUND)
    set_threshold(page, '1')
    expect(status(page)).to_have_text('nothing above 1.00')
    assert not page.locator('#attention img').count()
    picture = page.locator('#predictions img')
    picture.evaluate('image => image.decode()')  # only a loaded picture has positions to click
    picture.click()
    page.locator('#attention img').wait_for()


def test_only_configs_that_match_the_checkpoint_are_listed(visit):
    page = visit()
    for name in (CLASSIFIER, DETECTOR):
        page.get_by_label('Checkpoint (file or URL)').click()
        page.get_by_role('option', name=f'demo/{name}').click()
        expect(config(page)).to_have_value(name)
        config(page).click()
        assert page.get_by_role('option').all_inner_texts() == [f'✓\n{name}']
        page.keyboard.press('Escape')


def test_checkpoint_that_does_not_exist_is_named_on_the_page(visit):
    page = visit()
    page.get_by_label('Checkpoint (file or URL)').fill('nowhere.pth')
    page.keyboard.press('Enter')
    expect(status(page)).to_contain_text('nowhere.pth does not exist')
    expect(config(page)).to_have_value('')
    find(page, 'Select a checkpoint, a config that matches it, and an image.')


def test_errors_are_text_on_the_page_without_a_traceback(visit, folder, server):
    page = visit()
    length = len(server[1].read_text())
    upload(page, folder / 'text.png')
    find(page, 'text.png cannot be read as an image: it is empty, truncated or not an image')
    upload(page, folder / 'pixel.png')
    find(page, FOUND)
    page.get_by_label('Remove Image').click()
    find(page, 'Select a checkpoint, a config that matches it, and an image.')
    assert 'Traceback' not in server[1].read_text()[length:]
    upload(page, folder / 'faulty.png')
    find(page, "Unexpected error, KeyError: 'palette'. Details are in the terminal.")
    assert 'Traceback' in server[1].read_text()[length:]


def test_large_images_are_reduced(visit, folder):
    page = visit()
    upload(page, folder / 'large.png')
    find(page, 'Reduced from 7000 x 2800 to 1024 x 410 pixels')
    assert page.locator('#predictions img').evaluate('image => [image.naturalWidth, image.naturalHeight]') == [
        1024,
        410,
    ]


def test_cancel_stops_the_model(visit, folder):
    page = visit()
    upload(page, folder / 'slow.png')
    expect(page.get_by_role('button', name='Cancel')).to_be_disabled()
    page.get_by_role('button', name='Find').click()
    page.get_by_text('Running the model').first.wait_for()
    page.get_by_role('button', name='Cancel').click()
    expect(status(page)).to_have_text('Cancelled', timeout=20_000)
    expect(page.get_by_role('button', name='Find')).to_be_enabled()


@pytest.mark.parametrize('width, columns', [(1280, 2), (390, 1)])
def test_page_fits_the_window_and_does_not_jump(visit, width, columns):
    page = visit(width)
    left, right = (page.locator(selector).bounding_box() for selector in ('#image', '#predictions'))
    assert (right['x'] > left['x'] + left['width']) == (columns == 2)
    before = page.evaluate('document.documentElement.scrollHeight')
    find(page, FOUND)
    assert page.evaluate('document.documentElement.scrollHeight') == before
    assert page.evaluate('document.documentElement.scrollWidth') == width
    texts = page.locator('input[role=combobox], h2, label, button').all()
    assert not [text.inner_html() for text in texts if text.evaluate('text => text.scrollWidth > text.clientWidth + 1')]
