"""Tests that private names of other libraries, which the package uses, exist in the installed versions."""

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmvmamba'
PRIVATE = re.compile(r'_[A-Za-z]\w*')

# Each private name, and the modules or classes that must have it, as an attribute or in their source.
UPSTREAM = {
    '_C': ['torch'],
    '_DEFAULT_SUPPORTED_FLOP_OPS': ['mmengine.analysis.complexity_analysis'],
    '_are_functorch_transforms_active': ['torch._C'],
    '_backward_hooks': ['torch.nn.Module', 'torch.Tensor'],
    '_backward_pre_hooks': ['torch.nn.Module'],
    '_bbox_forward': ['mmdet.models.roi_heads.StandardRoIHead', 'mmdet.models.roi_heads.CascadeRoIHead'],
    '_bbox_mask_post_process': ['mmdet.models.dense_heads.RTMDetInsHead'],
    '_bbox_post_process': ['mmdet.models.dense_heads.base_dense_head.BaseDenseHead'],
    '_checkpoint_filter': ['mmpretrain.models.ImageClassifier'],
    '_coco_api': ['mmdet.evaluation.CocoMetric'],
    '_count_history': ['mmengine.logging.HistoryBuffer'],
    '_current_level': ['torch.autograd.forward_ad'],
    '_dynamo': ['torch'],
    '_forward_hooks': ['torch.nn.Module'],
    '_forward_pre_hooks': ['torch.nn.Module'],
    '_get_relation_matrix': ['mmdet.datasets.OpenImagesDataset'],
    '_get_tensor_rank': ['torch.onnx.symbolic_helper'],
    '_global_backward_hooks': ['torch.nn.modules.module'],
    '_global_backward_pre_hooks': ['torch.nn.modules.module'],
    '_global_forward_hooks': ['torch.nn.modules.module'],
    '_global_forward_pre_hooks': ['torch.nn.modules.module'],
    '_indices_of_rank': ['mmengine.dataset.InfiniteSampler'],
    '_is_init': ['mmengine.model.BaseModule'],
    '_is_none': ['torch.onnx.symbolic_helper'],
    '_iterator': ['mmengine.runner.loops._InfiniteDataloaderIterator'],
    '_linear_pointwise': ['torch.ops.mkldnn'],
    '_load_from': ['mmengine.runner.Runner', 'mmengine.runner._flexible_runner.FlexibleRunner'],
    '_load_from_state_dict': ['torch.nn.Module'],
    '_load_weights_to_model': [
        'mmengine.infer.BaseInferencer',
        'mmdet.apis.DetInferencer',
        'mmseg.apis.MMSegInferencer',
    ],
    '_log_history': ['mmengine.logging.HistoryBuffer'],
    '_mask_forward': ['mmdet.models.roi_heads.StandardRoIHead', 'mmdet.models.roi_heads.CascadeRoIHead'],
    '_mask_predict_by_feat_single': ['mmdet.models.dense_heads.RTMDetInsHead'],
    '_metadata': ['torch.nn.Module'],
    '_parameters': ['torch.nn.Module'],
    '_params_init_info': ['mmengine.model.BaseModule'],
    '_predict_by_feat_single': [
        'mmdet.models.dense_heads.base_dense_head.BaseDenseHead',
        'mmdet.models.roi_heads.bbox_heads.BBoxHead',
        'mmdet.models.roi_heads.mask_heads.FCNMaskHead',
    ],
    '_python_dispatch': ['torch.utils'],
    '_pytree': ['torch.utils'],
    '_resume': ['mmengine.runner.Runner', 'mmengine.runner._flexible_runner.FlexibleRunner'],
    '_unsqueeze_helper': ['torch.onnx.symbolic_helper'],
    '_version': ['torch.Tensor'],
}
# Names that are part of an interface: of NamedTuple, or suffixes of config settings such as train_dataloader.
PUBLIC = {'_fields', '_replace', '_dataloader', '_evaluator'}
# Attributes of our own that are set on objects of other classes, and our own method that a subclass extends.
OWN = {'_recomputed_from', '_in_workers', '_freeze_stages'}


@pytest.mark.parametrize('name, owner', [(name, owner) for name, owners in UPSTREAM.items() for owner in owners])
def test_private_names_of_other_libraries_exist(name, owner):
    pytest.importorskip(owner.split('.')[0])
    assert exists(name, owner), f'upstream moved: {owner} no longer has {name}. Adapt the files that use the name.'


def exists(name, owner):
    """Whether a module or class has an attribute, or a class sets it on its instances."""
    try:
        found = resolve(owner)
        if hasattr(found, name) or owner == 'torch.utils' and import_module(f'{owner}.{name}'):
            return True
    except (ImportError, AttributeError):
        return False
    return inspect.isclass(found) and re.search(rf'\b{name}\b', inspect.getsource(found)) is not None


def resolve(path):
    parts = path.split('.')
    for count in range(len(parts), 0, -1):
        try:
            found = import_module('.'.join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ImportError(path)


@pytest.mark.parametrize('owner', ['torch.nn.Module', 'torch.gone', 'gone.Runner', 'mmengine.runner.Runner'])
def test_a_name_that_disappeared_is_noticed(owner):
    assert not exists('_no_such_name', owner)


def test_the_list_of_private_names_is_complete():
    """A private name belongs to another library if the package only uses it, only defines it, or calls super() with it.

    Names in the files of checkpoints, such as torch._utils._rebuild_tensor_v2, are part of the format.
    """
    used, defined, inherited = scan()
    foreign = ((used - defined) | (defined - used) | inherited) - PUBLIC - OWN
    missing = foreign - UPSTREAM.keys()
    assert not missing, f'add these private names of other libraries to UPSTREAM, or rename yours: {sorted(missing)}'
    unused = UPSTREAM.keys() - used - defined
    assert not unused, f'remove these names from UPSTREAM, since the package no longer uses them: {sorted(unused)}'


@cache
def scan():
    """Returns the private names that the package uses, that it defines, and that it calls with super()."""
    used, defined, inherited = set(), set(), set()
    for path in PACKAGE.rglob('*.py'):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = getattr(node.value, 'id', None)
                if isinstance(node.ctx, ast.Store) and owner == 'self':
                    defined.add(node.attr)
                elif isinstance(node.value, ast.Call) and getattr(node.value.func, 'id', None) == 'super':
                    inherited.add(node.attr)
                else:
                    used.add(node.attr)
            elif isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split('.')  # getattr(x, '_name'), import_module('torch._dynamo')
                used |= {words[-1]} if len(words) < 3 else set()
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
                used |= {node.name} if node.decorator_list else set()  # a decorator may register the function
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.Import):
                used |= {part for alias in node.names for part in alias.name.split('.')}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used |= {*node.module.split('.'), *(alias.name for alias in node.names)}
            elif isinstance(node, ast.ImportFrom):
                used |= {alias.name for alias in node.names}
    return tuple({name for name in names if PRIVATE.fullmatch(name)} for names in (used, defined, inherited))
