"""The command-line tools, run on two pictures and the smallest models that have all parts."""

import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmvmamba.engine import distributed as ranks
from mmvmamba.engine.errors import LaunchError

from .kill_ranks import Job, kill_launcher, kill_rank

cv2 = pytest.importorskip('cv2')
pytest.importorskip('mmdet')

ROOT = Path(__file__).parent.parent

BACKBONE = """dict(
    type='VMamba', arch=dict(dims=8, depths=(1, 1, 1, 1), ssm_ratio=1.0), out_indices=(2, 3), frozen_stages=1)"""

COMMON = """
custom_imports = dict(imports=['mmvmamba'], allow_failed_imports=False)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='{hook}', interval=1))
visualizer = dict(type='{visualizer}', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(by_epoch=False, window_size=1)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
randomness = dict(seed=0)
"""

DETECTION = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32),
    backbone={backbone},
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2, norm_cfg=dict(type='SyncBN')),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=10, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
dataset = dict(
    type='CocoDataset', data_root={root!r}, ann_file='boxes.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)]), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dict(
        type='RepeatDataset', times=2, dataset=dataset))
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    test_mode=True, **dataset))
test_evaluator = dict(type='CocoMetric', ann_file={root!r} + '/boxes.json', metric='bbox')
"""

SEGMENTATION = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone={backbone},
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=1, channels=8, num_convs=1, num_classes=2,
        norm_cfg=dict(type='SyncBN')),
    test_cfg=dict(mode='whole'))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root={root!r}, data_prefix=dict(img_path='images', seg_map_path='maps'),
    img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(classes=('a', 'b'), palette=[[255, 0, 0], [0, 255, 0]]), pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dataset)
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""

CLASSIFICATION = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone={backbone}, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64))
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[60.0] * 3)
dataset = dict(
    type='CustomDataset', data_root={root!r}, ann_file='classes.txt', data_prefix='images', classes=['a', 'b'],
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dataset)
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
test_evaluator = dict(type='Accuracy', topk=1)
"""


class Writes:
    """Unpickling it creates a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f'open({self.marker!r}, "w").close()',)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    (root / 'images').mkdir()
    (root / 'maps').mkdir()
    images, boxes = [], []
    for number in range(4):
        picture, labels = np.full((64, 64, 3), 50 * number, np.uint8), np.zeros((64, 64), np.uint8)
        picture[16:48, 8:40], labels[16:48, 8:40] = 255, 1
        cv2.imwrite(str(root / f'images/{number}.png'), picture)
        cv2.imwrite(str(root / f'maps/{number}.png'), labels)
        images.append(dict(id=number, file_name=f'{number}.png', width=64, height=64))
        boxes.append(dict(id=number + 1, image_id=number, category_id=1, bbox=[8, 16, 32, 32], area=1024, iscrowd=0))
    (root / 'classes.txt').write_text(''.join(f'{number}.png {number % 2}\n' for number in range(4)))
    categories = [dict(id=1, name='a'), dict(id=2, name='b')]
    (root / 'boxes.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    return root


@pytest.fixture(scope='module')
def detection(data):
    config = data / 'detection.py'
    common = COMMON.format(hook='DetVisualizationHook', visualizer='DetLocalVisualizer')
    config.write_text(common + DETECTION.format(backbone=BACKBONE, root=str(data)))
    return config


def tool(name):
    """``main`` of a tool, for calls inside this process."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def shell(*command, cwd):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT), 'PORT': port}
    environment |= {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope='module')
def trained(detection, tmp_path_factory):
    """What dist_train.sh leaves after two iterations of two processes, started somewhere else."""
    folder = tmp_path_factory.mktemp('elsewhere')
    options = ['--work-dir', 'a run', '--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=1', 'note=word']
    done = shell('bash', ROOT / 'tools/dist_train.sh', detection, 2, *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / 'a run', done.stdout + done.stderr


@pytest.mark.slow
def test_dist_train(trained):
    work_dir, output = trained
    assert re.search(r'device .*, 2 processes', output)
    assert output.count('starts from random weights') == 1
    assert "note = 'word'" in (work_dir / 'detection.py').read_text()
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_2.pth')
    saved = torch.load(work_dir / 'iter_2.pth', weights_only=False)
    learnt = {name for name in saved['state_dict'] if name.startswith('backbone.')}
    assert learnt, 'the backbone was trained and saved'
    trained_counts = len(saved['optimizer']['state'])
    assert trained_counts < len(saved['optimizer']['param_groups'][0]['params']), 'frozen parameters have no state'


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='Linux ends a rank with its launcher')
@pytest.mark.parametrize('kill, nodes, count', [(kill_rank, 2, 1), (kill_launcher, 1, 2)])
def test_nothing_outlives_a_killed_process(kill, nodes, count, detection, tmp_path):
    """A rank of one of two machines, and a launcher: the others end, too, within a minute, and say so."""
    job = Job(detection, tmp_path, nodes, count)
    try:
        kill(job)
    finally:
        job.end()


@pytest.mark.slow
def test_ctrl_c_ends_all_ranks_with_one_line(detection, tmp_path):
    job = Job(detection, tmp_path, 1, 2)
    try:
        job.wait_for_iterations()
        for process in job.processes():  # a terminal sends the signal to all of them
            os.kill(process, signal.SIGINT)
        assert job.launchers[0].wait(60) == 130, job.said()
        assert not job.processes()
    finally:
        job.end()
    output = job.logs[0].read_text()
    assert re.search(r'\ntrain\.py: stopped at iteration \d+\. (To continue|No checkpoint).*\.\n$', output)
    assert 'Traceback' not in output and 'death signal' not in output


def test_a_rank_that_lost_its_launcher_ends(monkeypatch):
    monkeypatch.setattr(ranks, 'sys', SimpleNamespace(platform='other'))  # this process need not end with its parent
    monkeypatch.setenv('MMVMAMBA_LAUNCHER', '1')
    with pytest.raises(LaunchError, match='the launcher of this rank, process 1, has ended'):
        ranks.init_process_group(Config(dict(launcher='pytorch')))


UNREAD_OUTPUT = [
    'model.backbone.out_indices=1,2,3',
    'model.neck.in_channels=16,32,64',
    'model.neck.start_level=1',
    'default_hooks.checkpoint.interval=1',
]


@pytest.mark.slow
def test_an_unread_output_ends_distributed_training_with_one_sentence(detection, tmp_path):
    """RetinaNet with `start_level=1`; the setting that the sentence names trains it."""
    command = ['bash', ROOT / 'tools/dist_train.sh', detection, 2, '--work-dir', 'run', '--cfg-options', *UNREAD_OUTPUT]
    done = shell(*command, cwd=tmp_path)
    assert done.returncode != 0
    sentence = r'^train\.py: no neck or head reads an output of the backbone, so backbone\.outnorm1\.weight, .*$'
    assert re.search(sentence, done.stderr, re.M)
    assert 'Iter(train)' not in done.stdout + done.stderr
    assert not list((tmp_path / 'run').glob('*.pth'))
    done = shell(*command, 'find_unused_parameters=True', cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('start', ['fork', 'forkserver', 'spawn'])
def test_a_data_loader_process_names_a_damaged_image(start, detection, data, tmp_path):
    shutil.copytree(data / 'images', tmp_path / 'images')
    shutil.copy(data / 'boxes.json', tmp_path)
    for image in (tmp_path / 'images').iterdir():
        image.write_bytes(image.read_bytes()[:60])
    options = [f'train_dataloader.dataset.dataset.data_root={tmp_path}', 'train_dataloader.num_workers=1']
    options += [f'train_dataloader.multiprocessing_context={start}']
    done = shell(sys.executable, ROOT / 'tools/train.py', detection, '--cfg-options', *options, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(rf'^train\.py: {tmp_path}/images/\d\.png cannot be read as an image.*$', done.stderr, re.M)


@pytest.mark.slow
def test_no_amp_trains_a_config_with_mixed_precision(detection, tmp_path):
    mixed = ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16', 'optim_wrapper.loss_scale=1.0']
    tool('train')(detection, '--work-dir', tmp_path, '--no-amp', '--cfg-options', *mixed)
    assert (tmp_path / 'iter_2.pth').exists()


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_dist_test(count, trained, detection, tmp_path):
    checkpoint = trained[0] / 'iter_2.pth'
    options = ['--work-dir', 'metrics', '--out', 'predictions.pkl', '--cfg-options', 'test_evaluator.classwise=True']
    done = shell('bash', ROOT / 'tools/dist_test.sh', detection, checkpoint, count, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    [metrics] = (tmp_path / 'metrics').glob('*/*.json')
    assert 'coco/a_precision' in json.loads(metrics.read_text())
    tool('test')(detection, checkpoint, '--work-dir', tmp_path / 'one', '--out', tmp_path / 'one.pkl')
    found, wanted = (pickle.loads((tmp_path / name).read_bytes()) for name in ('predictions.pkl', 'one.pkl'))
    assert [sample['img_id'] for sample in found] == [sample['img_id'] for sample in wanted] == [0, 1, 2, 3]
    for key in ('bboxes', 'scores', 'labels'):
        several, one = ([sample['pred_instances'][key] for sample in samples] for samples in (found, wanted))
        assert len(one[0])
        torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def malicious(trained):
    """The trained checkpoint with one more entry."""
    path, marker = trained[0].parent / 'malicious.pth', trained[0].parent / 'marker'
    content = torch.load(trained[0] / 'iter_2.pth', weights_only=False)
    torch.save({**content, 'more': Writes(marker)}, path)
    return path, marker


@pytest.mark.slow
def test_refusal_is_one_line(malicious, detection, tmp_path):
    path, marker = malicious
    done = shell(sys.executable, ROOT / 'tools/test.py', detection, path, cwd=tmp_path)
    assert done.returncode == 1
    assert not marker.exists()
    assert 'Traceback' not in done.stderr
    assert re.search(r'^test\.py: .*malicious\.pth was rejected .*exec.*--trust-checkpoint.*$', done.stderr, re.M)


@pytest.mark.slow
def test_malicious_file_never_runs(malicious, detection, tmp_path, capsys):
    path, marker = malicious
    train = tool('train')
    (tmp_path / 'last_checkpoint').write_text(str(path))
    pretrained = ['init_cfg.type=Pretrained', 'init_cfg.prefix=backbone.', f'init_cfg.checkpoint={path}']
    for arguments in (
        ('--cfg-options', f'load_from={path}'),
        ('--resume', path),
        ('--resume',),
        ('--cfg-options', 'resume=True'),
        ('--cfg-options', *(f'model.backbone.{option}' for option in pretrained)),
        # mmengine itself loads this one
        ('--cfg-options', *(f'model.neck.{option}' for option in pretrained)),
    ):
        with pytest.raises(SystemExit, match='was rejected'):
            train(detection, '--work-dir', tmp_path, *arguments)
        assert not marker.exists(), arguments

    train(detection, '--work-dir', tmp_path, '--trust-checkpoint', '--cfg-options', f'load_from={path}')
    assert marker.exists()
    marker.unlink()


@pytest.mark.slow
def test_resume(trained, detection, tmp_path):
    content = torch.load(trained[0] / 'iter_2.pth', weights_only=False)
    # older trainers stored their config here, and mmengine executes it
    content['meta']['config'] = f'open({str(tmp_path / "marker")!r}, "w").close()'
    torch.save(content, tmp_path / 'before.pth')
    train = tool('train')
    start = tmp_path / 'before.pth'
    train(detection, '--work-dir', tmp_path, '--resume', start, '--cfg-options', 'train_cfg.max_iters=4')
    assert not (tmp_path / 'marker').exists()
    resumed = torch.load(tmp_path / 'iter_4.pth', weights_only=False)
    assert resumed['meta']['iter'] == 4

    train(detection, '--work-dir', tmp_path, '--resume', '--cfg-options', 'train_cfg.max_iters=6')
    assert (tmp_path / 'iter_6.pth').exists()

    torch.save({'state_dict': content['state_dict']}, tmp_path / 'weights.pth')
    with pytest.raises(SystemExit, match=r'weights\.pth has no training state \(meta, message_hub, optimizer\)'):
        train(detection, '--work-dir', tmp_path, '--resume', tmp_path / 'weights.pth')


@pytest.mark.slow
def test_weights_that_do_not_fit(trained, detection, tmp_path):
    # --cfg-options takes no blanks, which the first path has
    checkpoint = shutil.copy(trained[0] / 'iter_2.pth', tmp_path)
    test, train = tool('test'), tool('train')

    def run(main, *arguments):
        main(detection, *arguments[:-1], '--work-dir', tmp_path, '--cfg-options', arguments[-1])

    with pytest.raises(SystemExit, match=r'iter_2\.pth does not fit .* mismatched: bbox_head\.retina_cls\.weight'):
        run(test, checkpoint, 'model.bbox_head.num_classes=3')
    with pytest.raises(SystemExit, match=r'iter_2\.pth: .*does not fit VMamba: .*stages|layers'):
        run(test, checkpoint, 'model.backbone.arch.depths=(1,1,2,1)')

    # fine-tuning with other classes is what load_from is for
    other = 'train_dataloader.dataset.dataset.metainfo.classes=[a]'
    settings = ('model.bbox_head.num_classes=1', other, 'train_cfg.max_iters=1', f'load_from={checkpoint}')
    train(detection, '--work-dir', tmp_path, '--cfg-options', *settings)

    resnet = MODELS.build(dict(type='mmdet.ResNet', depth=18))
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in resnet.state_dict().items()}}, tmp_path / 'resnet.pth')
    with pytest.raises(SystemExit, match=r'resnet\.pth: .*VMamba.*patch_embed') as refusal:
        run(train, f'load_from={tmp_path / "resnet.pth"}')
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.slow
def test_pictures_and_test_time_augmentation(trained, detection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = tool('test')
    checkpoint = trained[0] / 'iter_2.pth'
    test(detection, checkpoint, '--work-dir', tmp_path, '--tta', '--show-dir', 'pictures')
    assert len(list(tmp_path.glob('pictures/*.png'))) == 4
    with pytest.raises(SystemExit, match='merges boxes but not masks'):
        test(detection, checkpoint, '--tta', '--cfg-options', 'test_evaluator.metric=[bbox,segm]')
    with pytest.raises(SystemExit, match=r'--out predictions\.json must end in \.pkl'):
        test(detection, checkpoint, '--work-dir', tmp_path, '--out', 'predictions.json')


MASK_RCNN = """
_base_ = {base!r}
test_dataloader = dict(dataset=dict(data_root={coins!r}))
test_evaluator = dict(ann_file={coins!r} + '/annotations/instances_validation.json')
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=scale, keep_ratio=True) for scale in (0.5, 0.75, 1.0)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [pack]])]
"""


@pytest.mark.slow
def test_test_time_augmentation_of_mask_rcnn_merges_boxes(tmp_path):
    """With the default flip, and with `tta_model` and three scales of a config; masks are not evaluated."""
    pytest.importorskip('skimage')
    coins, config = tmp_path / 'coins', tmp_path / 'masks.py'
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/coins.py', '--out-dir', coins], check=True)
    base = ROOT / 'configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py'
    config.write_text(MASK_RCNN.format(base=str(base), coins=str(coins)))
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'random.pth')
    test, option = tool('test'), ['--cfg-options', f'test_dataloader.dataset.data_root={coins}']
    option += [f'test_evaluator.ann_file={coins}/annotations/instances_validation.json']
    for number, path in enumerate((base, config)):
        command = [path, tmp_path / 'random.pth', '--tta', '--work-dir', tmp_path / str(number)]
        with pytest.raises(SystemExit, match=r'not masks: add --cfg-options test_evaluator\.metric=bbox'):
            test(*command, *option)
        test(*command, '--out', tmp_path / f'{number}.pkl', *option, 'test_evaluator.metric=bbox')
        [metrics] = (tmp_path / str(number)).glob('*/*.json')
        assert 'coco/bbox_mAP' in json.loads(metrics.read_text())
        [found] = pickle.loads((tmp_path / f'{number}.pkl').read_bytes())
        assert found['pred_instances'].keys() == {'bboxes', 'scores', 'labels'}
    with pytest.raises(SystemExit, match='merges boxes only: test_evaluator of this config is a CocoPanopticMetric'):
        test(*command, *option, 'test_evaluator.type=CocoPanopticMetric', 'test_evaluator.metric=PQ')


@pytest.mark.slow
def test_segmentation(data, tmp_path):
    pytest.importorskip('mmseg')
    config = tmp_path / 'segmentation.py'
    work_dir = tmp_path / 'run'
    common = COMMON.format(hook='SegVisualizationHook', visualizer='SegLocalVisualizer')
    config.write_text(common + SEGMENTATION.format(backbone=BACKBONE, root=str(data)))
    scaling = ['--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=4']
    tool('train')(config, '--work-dir', work_dir, *scaling)
    [log] = work_dir.glob('*/*.log')
    assert 'Scaling the original LR by 0.5' in log.read_text()

    keep = ['--out', tmp_path / 'maps', '--show-dir', tmp_path / 'pictures', '--tta']
    # within one process mmengine gives out the visualizer of the training again, unless it has another name
    keep += ['--cfg-options', 'visualizer.name=test']
    tool('test')(config, work_dir / 'iter_2.pth', '--work-dir', work_dir, *keep)
    assert sorted(path.name for path in (tmp_path / 'maps').iterdir()) == [f'{number}.png' for number in range(4)]
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4


@pytest.mark.slow
def test_compiled_training_ends_where_the_other_ends(data, tmp_path, monkeypatch):
    """Of images of two sizes: cfg.compile traces the backbone for both, and the weights are those without it."""
    pytest.importorskip('mmseg')
    for folder in ('images', 'maps'):
        (tmp_path / folder).mkdir()
        for number in range(4):
            picture = cv2.imread(str(data / f'{folder}/{number}.png'), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(tmp_path / f'{folder}/{number}.png'), picture[: 64 - 16 * (number % 2)])
    config = tmp_path / 'segmentation.py'
    common = COMMON.format(hook='SegVisualizationHook', visualizer='SegLocalVisualizer')
    text = SEGMENTATION.format(backbone=BACKBONE, root=str(tmp_path)).replace('size=(64, 64)', 'size_divisor=16')
    config.write_text(common + text)
    compile, graphs = torch.compile, []

    def compile_eagerly(function, backend):
        assert backend == 'eager'
        return compile(function, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)

    monkeypatch.setattr(torch, 'compile', compile_eagerly)
    train, options = tool('train'), ['train_dataloader.batch_size=1', 'train_dataloader.sampler.shuffle=False']
    options += ['optim_wrapper.optimizer.type=SGD']  # AdamW makes a whole step of a gradient that is all rounding
    train(config, '--work-dir', tmp_path / 'plain', '--cfg-options', *options)
    assert not graphs
    train(config, '--work-dir', tmp_path / 'compiled', '--cfg-options', *options, 'compile.backend=eager')
    torch._dynamo.reset()
    scans = [sum(str(node.target) == 'mmvmamba.selective_scan_2d' for node in graph.graph.nodes) for graph in graphs]
    assert [count for count in scans if count] == [4, 4]
    plain, compiled = (
        torch.load(tmp_path / name / 'iter_2.pth', weights_only=False)['state_dict'] for name in ('plain', 'compiled')
    )
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_classification(data, tmp_path):
    pytest.importorskip('mmpretrain')
    config = tmp_path / 'classification.py'
    work_dir = tmp_path / 'run'
    common = COMMON.format(hook='VisualizationHook', visualizer='UniversalVisualizer')
    backbone = BACKBONE.replace('(2, 3)', '(3, )')
    config.write_text(common + CLASSIFICATION.format(backbone=backbone, root=str(data)))
    tool('train')(config, '--work-dir', work_dir)
    test = tool('test')
    command = [config, work_dir / 'iter_2.pth', '--work-dir', work_dir]
    test(*command, '--tta', '--out', tmp_path / 'scores.pkl')
    assert (tmp_path / 'scores.pkl').exists()
    show = ['--show-dir', tmp_path / 'pictures']
    test(*command, *show, '--cfg-options', 'visualizer.name=test')
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4
    with pytest.raises(SystemExit, match='mmpretrain cannot show images with --tta'):
        test(*command, '--show', '--tta')


def test_config_errors(detection, data, tmp_path, monkeypatch):
    train, test = tool('train'), tool('test')

    def run(*options, config=detection):
        train(config, '--work-dir', tmp_path, *options)

    with pytest.raises(SystemExit, match=r'config none\.py does not exist'):
        run(config='none.py')
    with pytest.raises(SystemExit, match=r'none\.pth does not exist'):
        test(detection, 'none.pth', '--work-dir', tmp_path)
    with pytest.raises(SystemExit, match=r'/none\.json does not exist, and train_dataloader.dataset.dataset.ann_file'):
        run('--cfg-options', 'train_dataloader.dataset.dataset.ann_file=none.json')
    with pytest.raises(SystemExit, match=r'nowhere does not exist, and train_dataloader\.dataset\.dataset\.data_root'):
        run('--cfg-options', 'train_dataloader.dataset.dataset.data_root=nowhere')
    with pytest.raises(SystemExit, match=r'nowhere/?.* does not exist, and test_dataloader\.dataset\.data_prefix\.img'):
        test(detection, data / 'boxes.json', '--cfg-options', 'test_dataloader.dataset.data_prefix.img=nowhere')
    with pytest.raises(SystemExit, match='--auto-scale-lr needs the total batch size'):
        run('--auto-scale-lr')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match='--amp needs a GPU'):
            run('--amp')
        with pytest.raises(SystemExit, match='an AmpOptimWrapper, which needs a GPU: add --no-amp'):
            run('--cfg-options', 'optim_wrapper.type=AmpOptimWrapper')

    (tmp_path / 'file').write_text('precious')
    for command in ((train, detection), (test, detection, data / 'boxes.json')):
        with pytest.raises(SystemExit, match=r'file cannot be written to \(it is not a folder\)'):
            command[0](*command[1:], '--work-dir', tmp_path / 'file')
    with pytest.raises(SystemExit, match=r'file cannot be written to .*: choose another --out'):
        test(detection, data / 'boxes.json', '--work-dir', tmp_path, '--out', tmp_path / 'file' / 'found.pkl')

    missing = tmp_path / 'missing.py'
    missing.write_text("default_scope = 'mmdet'\nmodel = dict(backbone=dict(type='mmpretrain.ConvNeXt'))\n")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        'mmvmamba.engine.libraries.find_spec', lambda name: None if name == 'mmpretrain' else real(name)
    )
    with pytest.raises(SystemExit, match=r'needs mmpretrain, which is not installed: pip install onedl-mmpretrain'):
        run(config=missing)
    missing.write_text("custom_imports = dict(imports=['no_such_package'], allow_failed_imports=False)\n")
    with pytest.raises(SystemExit, match=r'missing\.py cannot be imported .*no_such_package'):
        run(config=missing)
