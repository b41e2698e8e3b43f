"""Which files are read as images."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from mmvmamba.engine.checks.images import DEFAULT, check_image, image_size, pixel_limit
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.patches.file_readers import install_file_readers

cv2 = pytest.importorskip('cv2')


def png(width, height, *chunks):
    parts = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)), *chunks, (b'IDAT', zlib.compress(b''))]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)) for name, body in parts
    )


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'bmp', 'webp', 'ppm', 'jp2', 'gif'])
def test_the_size_is_that_of_the_decoder(suffix, tmp_path):
    file = tmp_path / f'image.{suffix}'
    pixels = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    if suffix == 'gif':
        from PIL import Image

        Image.fromarray(pixels).save(file)
    else:
        assert cv2.imwrite(str(file), pixels)
    assert image_size(file) == (80, 60)
    check_image(file)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('order', '<>')
def test_the_size_of_a_tiff_file_that_pillow_rejects(order, big, tmp_path):
    mark = {'<': b'II', '>': b'MM'}[order]
    if big:
        head = mark + struct.pack(f'{order}HHHQQ', 43, 8, 0, 16, 2)
        tags = [struct.pack(f'{order}HHQQ', tag, 16, 1, value) for tag, value in ((256, 40000), (257, 50000))]
    else:
        head = mark + struct.pack(f'{order}HIH', 42, 8, 2)
        tags = [struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in ((256, 40000), (257, 50000))]
    (tmp_path / 'a.tif').write_bytes(head + b''.join(tags) + bytes(8))
    assert image_size(tmp_path / 'a.tif') == (40000, 50000)
    with pytest.raises(DataError, match='a.tif has 40000 x 50000 pixels'):
        check_image(tmp_path / 'a.tif')


@pytest.mark.parametrize('chunks', [[], [(b'gAMA', b'x')]], ids=['plain', 'chunk that Pillow rejects'])
def test_a_decompression_bomb_is_rejected_by_its_header(chunks, tmp_path):
    (tmp_path / 'a.png').write_bytes(png(31000, 31000, *chunks))
    with pytest.raises(
        DataError, match=f'a.png has 31000 x 31000 pixels, more than the limit of {DEFAULT}: set MMVMAMBA'
    ):
        check_image(tmp_path / 'a.png')


def test_a_bomb_of_a_format_that_pillow_reads(tmp_path):
    (tmp_path / 'a.gif').write_bytes(
        b'GIF89a'
        + struct.pack('<HHBBB', 65535, 65535, 0, 0, 0)
        + b','
        + struct.pack('<HHHHBB', 0, 0, 9, 9, 0, 8)
        + bytes(9)
    )
    with pytest.raises(DataError, match=r'a.gif has (too many pixels|65535 x 65535)'):
        check_image(tmp_path / 'a.gif')


def test_the_limit_can_be_raised(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(png(31000, 31000))
    monkeypatch.setenv('MMVMAMBA_MAX_IMAGE_PIXELS', str(31000 * 31000))
    check_image(tmp_path / 'a.png')
    monkeypatch.setenv('MMVMAMBA_MAX_IMAGE_PIXELS', str(31000 * 31000 - 1))
    with pytest.raises(DataError, match='31000 x 31000'):
        check_image(tmp_path / 'a.png')


@pytest.mark.parametrize('value', ['many', '-1', '0', '1e9', '²'])
def test_the_limit_must_be_an_integer(value, monkeypatch):
    monkeypatch.setenv('MMVMAMBA_MAX_IMAGE_PIXELS', value)
    with pytest.raises(LaunchError, match='must be a positive integer'):
        pixel_limit()


def test_only_regular_files_are_read(tmp_path):
    install_file_readers()
    import mmcv
    from mmengine.fileio import get_text, load

    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'zero.png').symlink_to('/dev/zero')
    (tmp_path / 'folder.png').mkdir()
    for name, kind in [('pipe', 'named pipe'), ('zero', 'device'), ('folder', 'folder')]:
        for read in (mmcv.imread, get_text, lambda file: load(file, file_format='json')):
            with pytest.raises(DataError, match=f'{name}.png is a {kind}, not a regular file'):
                read(str(tmp_path / f'{name}.png'))


def test_a_file_larger_than_any_image_is_rejected(tmp_path):
    with open(tmp_path / 'a.png', 'wb') as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(DataError, match='has 1099511627776 bytes'):
        check_image(tmp_path / 'a.png')


def test_a_postscript_program_is_no_image(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n')
    with pytest.raises(DataError, match='a.png is a PostScript program'):
        check_image(tmp_path / 'a.png')


def test_what_is_no_image_is_left_to_the_decoder(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no image')
    check_image(tmp_path / 'a.png')
    check_image(tmp_path / 'missing.png')
    for head in (b'\xff\xd8\xff', b'II*\0', b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR'):
        (tmp_path / 'a.png').write_bytes(head)
        assert image_size(tmp_path / 'a.png') is None


def test_the_demo_ends_with_a_sentence(tmp_path):
    """A folder with a named pipe: reading it would wait for ever."""
    from mmvmamba.analysis.networks import find_photographs, read_photograph

    install_file_readers()
    (tmp_path / 'a.png').write_bytes(png(31000, 31000))
    with pytest.raises(DataError, match='31000 x 31000'):
        read_photograph(find_photographs(tmp_path)[0])


def test_pillow_has_the_same_limit():
    """Of uploads to the web page, which Pillow decodes."""
    script = (
        'from mmvmamba.engine.patches.file_readers import install_file_readers; install_file_readers(); '
        'import PIL.Image as i, io; '
        f'i.open(io.BytesIO({png(600, 600)!r}))'
    )
    environment = os.environ | dict(MMVMAMBA_MAX_IMAGE_PIXELS='1000')
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True, check=False)
    assert 'DecompressionBombError' in done.stderr
