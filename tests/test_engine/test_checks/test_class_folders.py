"""The folders of a classification dataset are compared with its class names, which mmpretrain does not do."""

import pytest

from mmvmamba.engine.checks.class_folders import folder_fault, folder_warning


def fault(tmp_path, folders, classes):
    for name in folders:
        (tmp_path / name).mkdir()
    return folder_fault(tmp_path, classes)


@pytest.mark.parametrize(
    'folders, classes',
    [
        (['ball', 'box'], ['ball', 'box']),
        (['ball', 'box'], ['Ball', 'Box']),
        (['n01', 'n02'], ['tench', 'goldfish']),  # ImageNet
    ],
)
def test_folders_that_fit_are_accepted(folders, classes, tmp_path):
    assert fault(tmp_path, folders, classes) is None


@pytest.mark.parametrize(
    'folders, classes, sentence',
    [
        (
            ['ball', 'box'],
            ['box', 'ball'],
            'in which order mmpretrain numbers them, but the classes are box, ball: write',
        ),
        (['Box', 'ball'], ['ball', 'Box'], 'has the folders Box, ball, in which order'),
        (['ball', 'bocks'], ['ball', 'box'], 'there is no folder for box and no class for bocks'),
        (['ball'], ['ball', 'box'], 'has the folders ball, but the classes are ball, box: there is no folder for box'),
        (['n01', 'n02', 'n03'], ['tench', 'goldfish'], 'no class for n01, n02, n03'),
        ([], ['ball'], 'has no folders, but needs one for each of the classes ball'),
    ],
)
def test_others_are_rejected(folders, classes, sentence, tmp_path):
    assert sentence in fault(tmp_path, folders, classes)


def test_a_missing_folder_is_reported_elsewhere(tmp_path):
    assert folder_fault(tmp_path / 'none', ['ball']) is None


def test_folders_without_the_name_of_any_class_are_a_warning(tmp_path):
    assert fault(tmp_path, ['brick', 'disc'], ['ball', 'box']) is None
    assert 'the classes are ball, box: the first folder is called ball' in folder_warning(tmp_path, ['ball', 'box'])
    assert folder_warning(tmp_path, ['Brick', 'Disc']) is None
