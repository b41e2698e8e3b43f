"""Downloads: each URL has a file of its own, and what came damaged does not stay."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mmvmamba.checkpoint import CheckpointError, read_checkpoint

from .attacks import write


class Handler(SimpleHTTPRequestHandler):
    cut = False

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.cut else content)
        self.close_connection = True


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / 'site').mkdir()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(tmp_path / 'site'))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'site', f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_two_files_of_one_name(site):
    folder, address = site
    for name in ('a', 'b'):
        (folder / name).mkdir()
        write(folder / name / 'best.pth', {'weight': torch.full((1,), ord(name))})
    for name in ('a', 'b', 'a'):
        assert read_checkpoint(f'{address}/{name}/best.pth')['state_dict']['weight'].item() == ord(name)


def test_cut_download_does_not_stay(site, monkeypatch):
    folder, address = site
    write(folder / 'best.pth', {'weight': torch.ones(1000)})
    monkeypatch.setattr(Handler, 'cut', True)
    with pytest.raises(CheckpointError, match=r'the download of http.*/best\.pth was deleted, and the next call'):
        read_checkpoint(f'{address}/best.pth')
    monkeypatch.setattr(Handler, 'cut', False)
    assert 'state_dict' in read_checkpoint(f'{address}/best.pth')


def test_a_whole_download_stays_where_the_machine_is_at_fault(site, monkeypatch):
    folder, address = site
    write(folder / 'best.pth', {'weight': torch.ones(10)})
    pytest.importorskip('safetensors.torch').save_file({'weight': torch.ones(10)}, folder / 'best.safetensors')
    content = [read_checkpoint(f'{address}/{name}') for name in ('best.pth', 'best.safetensors')]
    kept = sorted(Path(torch.hub.get_dir()).rglob('best.*'))
    assert len(content) == len(kept) == 2

    def is_full(*_, **__):
        raise MemoryError('no room')

    for name in ('best.pth', 'best.safetensors'):
        with pytest.raises(CheckpointError, match="map_location='nowhere' is not a device of this machine"):
            read_checkpoint(f'{address}/{name}', map_location='nowhere')
        for map_location in (None, {'cpu': 'cpu'}, lambda storage, _: storage, torch.device('cpu')):
            read_checkpoint(f'{address}/{name}', map_location)
    monkeypatch.setattr('mmvmamba.checkpoint.formats.read_zip', is_full)
    with pytest.raises(CheckpointError, match='cannot be read .MemoryError: no room'):
        read_checkpoint(f'{address}/best.pth')
    monkeypatch.setattr('mmvmamba.checkpoint.formats.find_spec', lambda name: None)
    with pytest.raises(CheckpointError, match='needs safetensors'):
        read_checkpoint(f'{address}/best.safetensors')
    assert sorted(Path(torch.hub.get_dir()).rglob('best.*')) == kept


@pytest.mark.parametrize('name', ['x' * 5000 + '.pth', '~nobody-here/x.pth', 'http://[::1', 'a\0b.pth'])
def test_names_that_are_none(name):
    with pytest.raises(CheckpointError, match='checkpoint .*(is not a valid path or URL|does not exist)'):
        read_checkpoint(name)
