import ipaddress
import os
import socket
import sys
from pathlib import Path

import pytest

# With several xdist workers, use one thread each, here and in subprocesses. This runs before torch is imported.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

CONFIGS = Path(__file__).parents[1] / 'configs'
OWN_NAMES = {'None', '', 'localhost', socket.gethostname()}


def refuse_other_machines(event, arguments):
    """Audit hook that rejects connections and name lookups for other hosts. Subprocesses are not covered."""
    if event == 'socket.connect' and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        host = arguments[1][0]
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = host in OWN_NAMES
    if not is_own:
        raise RuntimeError(f'Tests need no network: this process connects to its own machine alone, not to {host}.')


sys.addaudithook(refuse_other_machines)


@pytest.fixture(autouse=True)
def forget_visualizers():
    """Removes the visualizers of a test: hooks draw with the one whose name was created last in the process."""
    yield
    if 'mmengine.visualization' in sys.modules:
        sys.modules['mmengine.visualization'].Visualizer._instance_dict.clear()


@pytest.fixture
def load():
    """Returns a function that loads a config in its library's scope and skips the test if the library is missing."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    scopes = []

    def load(name):
        torch.manual_seed(0)
        cfg = Config.fromfile(CONFIGS / name)
        pytest.importorskip(cfg.default_scope)
        scopes.append(DefaultScope.overwrite_default_scope(cfg.default_scope))
        scopes[-1].__enter__()
        return cfg

    yield load
    for scope in reversed(scopes):
        scope.__exit__(None, None, None)


@pytest.fixture
def photo(tmp_path):
    """A 300 x 400 image with one square object, annotated in the format of each dataset."""
    import mmcv
    import numpy as np

    image, labels = tmp_path / 'image.png', tmp_path / 'labels.png'
    mmcv.imwrite(np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8), str(image))
    mmcv.imwrite(np.pad(np.ones((100, 100), np.uint8), ((100, 100), (100, 200))), str(labels))
    square = [100, 100, 200, 100, 200, 200, 100, 200]
    instance = dict(bbox=[100, 100, 200, 200], bbox_label=3, mask=[square], ignore_flag=0)
    return dict(
        img_path=str(image),
        img_id=0,
        height=300,
        width=400,
        instances=[instance],
        seg_map_path=str(labels),
        label_map=None,
        reduce_zero_label=True,
        seg_fields=[],
    )
