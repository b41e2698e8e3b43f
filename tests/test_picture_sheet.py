import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = runpy.run_path(str(Path(__file__).parents[1] / 'tools/analysis_tools/picture_sheet.py'))


def write_pictures(folder, count):
    for number in range(count):
        file = folder / str(number % 3) / f'{number:03}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 30), (number, 0, 0)).save(file)


def test_a_sheet_has_pictures_of_all_folders(tmp_path):
    write_pictures(tmp_path / 'pictures', 60)
    TOOL['main']([str(tmp_path / 'pictures'), '--out', str(tmp_path / 'sheet.png'), '--count', '20'])
    sheet = Image.open(tmp_path / 'sheet.png')
    assert sheet.size == (5 * 26 + 6, 4 * 36 + 6)
    shown = {colour[0] for _, colour in sheet.getcolors() if colour != (255, 255, 255)}
    assert len(shown) == 20
    assert {number % 3 for number in shown} == {0, 1, 2}


def test_a_single_picture_is_a_sheet(tmp_path):
    write_pictures(tmp_path / 'pictures', 1)
    TOOL['main']([str(tmp_path / 'pictures'), '--out', str(tmp_path / 'sheet.png')])
    assert Image.open(tmp_path / 'sheet.png').size == (32, 42)


def test_an_empty_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['picture_sheet.py'])
    with pytest.raises(SystemExit, match=r'picture_sheet\.py: .* contains no PNG file'):
        TOOL['main']([str(tmp_path)])
