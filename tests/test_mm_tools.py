"""Runs every command of docs/mm_tools.md with the libraries' own tools and checks the files they write."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet', '3.4', reason='the commands are those of the forks')
for library in ('mmdet', 'mmseg', 'mmpretrain', 'pytorch_grad_cam', 'seaborn', 'sklearn', 'skimage', 'tensorboard'):
    pytest.importorskip(library)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'mm_tools.md').read_text()
SETUP, *COMMANDS = re.findall(r'```bash\n(.*?)```', PAGE, re.S)
[PYTHON] = re.findall(r'```python\n(.*?)```', PAGE, re.S)

# The files that `make demo`, `make demo-seg` and `make demo-cls` write, after two steps instead of the full training.
STEPS = {
    'mask-rcnn_vmamba-demo_fpn_coins': 'train_cfg.max_iters=2 default_hooks.checkpoint.interval=2',
    'vmamba-demo_upernet_coins': 'train_cfg.max_iters=2 default_hooks.checkpoint.interval=2',
    'vmamba-demo_digits': 'train_cfg.max_epochs=1 default_hooks.checkpoint.interval=1 train_dataloader.batch_size=599',
}


def shell(command, cwd):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    environment |= {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'MPLBACKEND': 'agg'}
    done = subprocess.run(
        ['bash', '-c', f'set -e\n{command}'], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    for data in ('coins', 'digits'):
        shell(f'python tools/dataset_converters/{data}.py', folder)
    for name, options in STEPS.items():
        logging = 'default_hooks.logger.interval=1 train_cfg.val_interval=2'
        run = f'--work-dir work_dirs/demo/{name} --cfg-options {logging} {options}'
        shell(f'python tools/train.py configs/demo/{name}.py {run}', folder)
    return folder


def test_commands_of_the_page_run(checkout):
    """Commands run in the order of the page, because some use the output of an earlier one."""
    assert len(COMMANDS) > 20
    for command in COMMANDS:
        shell(SETUP + command, checkout)
        for written in re.findall(r'--(?:out|output-dir|out-dir|save-path|show-path|work-dir) (\S+)', command):
            assert (checkout / written).exists(), command
    assert list(checkout.glob('work_dirs/demo/tensorboard/*/vis_data/events.out.tfevents.*'))
    for library in ('det', 'seg', 'cls'):
        published = re.compile(rf'{library}(_\d{{8}})?-[0-9a-f]{{8}}\.pth')  # some libraries add the date
        assert any(published.fullmatch(file.name) for file in (checkout / 'outputs').iterdir()), 'a hash is in its name'


def test_flops_of_vim(checkout):
    """The tools trace the model; that of VMamba is among the commands of the page."""
    vim = 'DET=mask-rcnn_vim-demo_sfp_coins SEG=vim-demo_upernet_coins CLS=vim-demo_digits\n'
    commands = [command for command in COMMANDS if 'get_flops.py' in command]
    assert len(commands) == 3
    for command in commands:
        assert re.search(r'Flops: [1-9]', shell(SETUP + vim + command, checkout)), command


def test_class_activation_map_of_vim():
    """Runs the snippet of the page. The class token, which is in the middle of the sequence, is in no map."""
    import torch

    from mmvmamba import Vim

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Vim(arch=dict(embed_dims=16, depth=1), img_size=64, pooling='middle')

        def forward(self, image):
            return self.backbone(image)[0]

    scope = dict(model=Classifier().eval(), height=4, width=6, image=torch.randn(1, 3, 64, 96))
    exec(PYTHON, scope)
    assert scope['heat'].shape == (1, 64, 96)
    tokens = torch.arange(25.0).reshape(1, 25, 1)
    grid = scope['cam'].activations_and_grads.reshape_transform(tokens)
    assert grid.shape == (1, 1, 4, 6) and grid.flatten().tolist() == [*range(12), *range(13, 25)]
