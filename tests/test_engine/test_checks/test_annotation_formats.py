"""Annotation files that could run code."""

import json
import os
import pickle

import numpy as np
import pytest
from mmengine.fileio import dump, load

from mmvmamba.engine.checks.annotation_formats import check_array, trust_annotations
from mmvmamba.engine.errors import DataError
from mmvmamba.engine.patches.file_readers import install_file_readers

install_file_readers()


class MakesFolder:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('suffix', ['pkl', 'pickle'])
def test_a_pickle_is_rejected_unless_it_is_trusted(suffix, tmp_path):
    file, marker = tmp_path / f'annotations.{suffix}', tmp_path / 'ran'
    file.write_bytes(pickle.dumps(MakesFolder(marker)))
    with pytest.raises(DataError, match=rf'{file} is a pickle, which can execute code .* pass --trust-annotations'):
        load(str(file))
    assert not marker.exists()
    with trust_annotations(True):
        load(str(file))
    assert marker.exists()
    with pytest.raises(DataError):  # trust ends with the block
        load(str(file))


@pytest.mark.parametrize('suffix', ['yml', 'yaml'])
def test_yaml_is_read_as_data(suffix, tmp_path):
    file, marker = tmp_path / f'annotations.{suffix}', tmp_path / 'ran'
    content = dict(metainfo=dict(classes=['a', 'b']), data_list=[dict(img_path='a.png', gt_label=1)])
    dump(content, str(file))
    assert load(str(file)) == content
    file.write_text(f'!!python/object/apply:os.mkdir ["{marker}"]')
    with pytest.raises(DataError, match=rf'{file} is YAML that contains more than data .* pass --trust-annotations'):
        load(str(file))
    assert not marker.exists()
    with trust_annotations(True):
        load(str(file))
    assert marker.exists()


def test_a_trusted_pickle_may_be_larger_than_any_image(tmp_path, monkeypatch):
    monkeypatch.setenv('MMVMAMBA_MAX_IMAGE_PIXELS', '1')
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(list(range(1000))))
    with trust_annotations(True):
        assert load(str(tmp_path / 'a.pkl')) == list(range(1000))


def test_results_are_still_written_as_pickles(tmp_path):
    dump([1, 2], str(tmp_path / 'results.pkl'))
    assert pickle.loads((tmp_path / 'results.pkl').read_bytes()) == [1, 2]
    dump([1, 2], str(tmp_path / 'results.yml'))
    assert load(str(tmp_path / 'results.yml')) == [1, 2]


def test_arrays_of_objects_are_rejected(tmp_path):
    np.save(tmp_path / 'numbers.npy', np.eye(3))
    np.save(tmp_path / 'objects.npy', np.array([MakesFolder(tmp_path / 'ran')], dtype=object))
    (tmp_path / 'pickle.npy').write_bytes(pickle.dumps(MakesFolder(tmp_path / 'ran')))
    check_array(tmp_path / 'numbers.npy')
    for name in ('objects.npy', 'pickle.npy'):
        with pytest.raises(DataError, match=f'{name} is a NumPy file with pickled objects'):
            check_array(tmp_path / name)
    assert not (tmp_path / 'ran').exists()


def test_the_hierarchy_of_open_images_is_no_pickle(tmp_path):
    openimages = pytest.importorskip('mmdet.datasets.openimages')
    from mmvmamba.engine.patches.dataset_errors import install_dataset_errors

    install_dataset_errors()
    np.save(tmp_path / 'tree.npy', np.array([MakesFolder(tmp_path / 'ran')], dtype=object))
    dataset = openimages.OpenImagesChallengeDataset.__new__(openimages.OpenImagesChallengeDataset)
    dataset.backend_args = None
    with pytest.raises(DataError, match='tree.npy is a NumPy file with pickled objects'):
        dataset._get_relation_matrix(str(tmp_path / 'tree.npy'))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('library, kind', [('mmdet', 'BaseDetDataset'), ('mmpretrain', 'BaseDataset')])
@pytest.mark.parametrize('key', ['ann_file', 'proposal_file'])
def test_data_sets_name_the_pickle_and_the_option(library, kind, key, tmp_path):
    if (library, key) == ('mmpretrain', 'proposal_file'):
        pytest.skip('mmpretrain has no proposals')
    datasets = pytest.importorskip(f'{library}.datasets')
    from mmvmamba.engine.patches.dataset_errors import install_dataset_errors

    install_dataset_errors()
    files = dict(ann_file=str(tmp_path / 'a.json'))
    sample = dict(img_path='a.png', instances=[dict(bbox=[0, 0, 1, 1], bbox_label=0)], gt_label=0)
    (tmp_path / 'a.json').write_text(json.dumps(dict(metainfo={}, data_list=[sample])))
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(MakesFolder(tmp_path / 'ran')))
    files[key] = str(tmp_path / 'a.pkl')
    with pytest.raises(DataError, match=r'a.pkl is a pickle, .* --trust-annotations'):
        getattr(datasets, kind)(metainfo=dict(classes=('a',)), pipeline=[], **files)
    assert not (tmp_path / 'ran').exists()
