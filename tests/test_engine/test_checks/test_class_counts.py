"""Heads against the names of a data set."""

import pytest
from torch import nn

from mmvmamba.engine.checks.class_counts import check_class_counts
from mmvmamba.engine.errors import DataError


class Head(nn.Module):
    def __init__(self, num_classes, **others):
        super().__init__()
        self.num_classes = num_classes
        for name, value in others.items():
            setattr(self, name, value)


class RPNHead(Head):
    pass


class STDCHead(Head):
    pass


def model(**parts):
    whole = nn.Module()
    for path, module in parts.items():
        parent = whole
        *folders, name = path.split('__')
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(name, nn.ModuleList(module) if isinstance(module, list) else module)
    return whole


NAMES = dict(classes=('a', 'b', 'c', 'd', 'e'))


@pytest.mark.parametrize(
    'parts',
    [
        dict(head=Head(5)),
        dict(head=Head(None)),
        dict(head=nn.Identity()),
        dict(decode_head=[Head(5), Head(5)], auxiliary_head=[Head(5), STDCHead(2)]),
        dict(bbox_head=RPNHead(1)),
        dict(rpn_head=Head(1), roi_head__bbox_head=[Head(5)] * 3, roi_head__mask_head=Head(5)),
        dict(roi_head__bbox_head=Head(5), roi_head__mask_head=Head(80, class_agnostic=True)),
        dict(bbox_head=Head(256), language_model=nn.Identity()),
        dict(module__bbox_head=Head(256), module__language_model=nn.Identity()),
        dict(student__bbox_head=Head(5)),
        dict(backbone__loss=Head(1000)),
    ],
)
def test_what_the_libraries_allow_passes(parts):
    check_class_counts(model(**parts), NAMES, 'the training data')


@pytest.mark.parametrize(
    'parts, name',
    [
        (dict(head=Head(200)), 'head'),
        (dict(head=Head(4)), 'head'),
        (dict(decode_head=Head(19)), 'decode_head'),
        (dict(decode_head=[Head(5), Head(19)]), r'decode_head\.1'),
        (dict(decode_head=Head(5), auxiliary_head=Head(19)), 'auxiliary_head'),
        (dict(bbox_head=Head(80)), 'bbox_head'),
        (dict(roi_head__bbox_head=[Head(5), Head(5), Head(80)]), r'roi_head\.bbox_head\.2'),
        (dict(roi_head__bbox_head=Head(5), roi_head__mask_head=Head(80)), r'roi_head\.mask_head'),
        (dict(student__bbox_head=Head(80)), r'student\.bbox_head'),
    ],
)
def test_each_head_with_another_number_is_named(parts, name):
    with pytest.raises(
        DataError,
        match=rf'^{name} of the model has num_classes=\d+, but the number of classes of the training data is 5 \(a, b',
    ):
        check_class_counts(model(**parts), NAMES, 'the training data')


def test_a_wrapped_model_is_looked_into():
    with pytest.raises(DataError, match='^head of the model has num_classes=200, but'):
        check_class_counts(model(module=model(head=Head(200))), NAMES, 'the training data')


def test_panoptic_data_have_things_and_stuff():
    names = dict(classes=('a', 'b', 'c'), thing_classes=('a', 'b'))
    check_class_counts(model(panoptic_head=Head(3), roi_head__bbox_head=Head(2)), names, 'the data')


def test_one_map_for_two_classes_passes():
    check_class_counts(model(decode_head=Head(1, out_channels=1)), dict(classes=('a', 'b')), 'the data')


def test_a_string_in_the_place_of_names_is_rejected():
    with pytest.raises(DataError, match=r"is the string 'coin', but must be a tuple: write \('coin',\)"):
        check_class_counts(model(bbox_head=Head(4)), dict(classes='coin'), 'the data')


def test_data_without_names_pass():
    check_class_counts(model(head=Head(200)), {}, 'the data')
