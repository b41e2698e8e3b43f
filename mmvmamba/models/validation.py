"""Validation of the arguments and inputs of backbones: each error names the argument and the values it accepts."""

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from ..memory import has_default_forward
from ..ops.arguments import channels_first_hint, check_not_proxy, is_autocast_on


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(f'{name}={value!r} must be one of {", ".join(choices)}.')


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Requires an integer from `least` to `most`; bools and floats are rejected."""
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ValueError(
            f'{name}={value!r} must be an integer, {f"at least {least}" if most is None else f"{least} to {most}"}.'
        )


def check_rate(name: str, value: object) -> None:
    """Requires a probability in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f'{name}={value!r} must be a number, 0 to less than 1.')


def check_ratio(name: str, value: Any, channels: int, may_be_0: bool = False) -> None:
    """Requires a finite ratio that gives at least one of `channels` channels, or 0 if `may_be_0`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (int(value * channels) >= 1 or (may_be_0 and value == 0)):
        raise ValueError(
            f'{name}={value!r} must be a number that gives a stage of {channels} channels at least one inner channel'
            f'{", or 0 for none" if may_be_0 else ""}.'
        )


def check_outputs(out_indices: object, count: int, what: str, first: int = 0) -> None:
    """Requires a collection of distinct stage or block numbers."""
    if not isinstance(out_indices, Collection) or isinstance(out_indices, (str, dict)):
        raise ValueError(f'out_indices={out_indices!r} must be a tuple, such as ({count - 1},) for the last {what}.')
    known = out_indices and all(type(i) is int and i in range(first, count) for i in out_indices)
    if not known or len({i % count for i in out_indices}) < len(out_indices):
        raise ValueError(f'out_indices={out_indices} must name {what}s {first} to {count - 1}, each once.')


def check_image(x: Tensor, channels: int, least: int = 1, first_layer: nn.Module | None = None) -> None:
    """Requires a batch of float images with `channels` channels, at least `least` pixels high and wide.

    Args:
        first_layer: the layer that processes the images. If it is an unmodified convolution, the dtype and device of
            its weight must be those of the images.

    Raises:
        ValueError: wrong number of dimensions or channels, dtype, device or size.
    """
    check_not_proxy('this backbone', x)
    if not isinstance(x, Tensor):
        raise ValueError(f'The input is a {type(x).__name__}: it must be one tensor, a batch of images.')
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f'The input is {tuple(x.shape)}: it must be (B, {channels}, H, W), a batch of images with '
            f'in_channels={channels} channels.'
        )
    if not x.is_floating_point():
        raise ValueError(f'The images are {x.dtype}: they must be floating-point numbers, normalised as in training.')
    if x.shape[2] < least or x.shape[3] < least:
        raise ValueError(
            f'The image is {x.shape[2]} x {x.shape[3]} pixels, smaller than a patch of {least} x {least}: '
            'enlarge or pad it.'
        )
    if isinstance(first_layer, nn.Conv2d) and has_default_forward(nn.Conv2d, first_layer):
        _check_like(x, first_layer.weight)


def reject_torchscript(module: nn.Module) -> None:
    """The `__prepare_scriptable__` of our modules, which torch.jit.script calls before it compiles a model."""
    raise NotImplementedError(
        f'torch.jit.script does not support {type(module).__name__}: use torch.jit.trace or torch.export instead.'
    )


def check_layout(module: nn.Module, x: Tensor, layout: str, channels: int) -> None:
    """Requires a tensor with this layout, (B, H, W, C) or (B, L, C), and number of channels.

    Raises:
        ValueError: wrong number of dimensions or channels, or channels first.
    """
    if isinstance(x, Tensor) and x.dim() == layout.count(',') + 1 and x.shape[-1] == channels:
        return
    name = type(module).__name__
    check_not_proxy(name, x)
    hint = channels_first_hint(x, channels) if x.dim() == layout.count(',') + 1 else ''
    raise ValueError(f'{name} takes {layout} with C={channels} channels, not {tuple(x.shape)}{hint}.')


def _check_like(x: Tensor, weight: Tensor) -> None:
    if x.device != weight.device:
        raise ValueError(f'The images are on {x.device}, the weights on {weight.device}: move them to one device.')
    is_cast = is_autocast_on(x.device.type) and torch.float64 not in (x.dtype, weight.dtype)
    if x.dtype != weight.dtype and not is_cast:
        raise ValueError(
            f'The images are {x.dtype}, the weights {weight.dtype}: convert one of them, or run under torch.autocast.'
        )


def resolve_arch(arch: object, archs: dict[str, dict], required: tuple[str, ...], defaults: dict, example: str) -> dict:
    """Returns all fields of an architecture given by name or as a dict."""
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(
                f'Unknown arch {arch!r}: choose from {", ".join(archs)}, or give a dict with {" and ".join(required)}.'
            )
        arch = archs[arch]
    if not isinstance(arch, dict):
        raise ValueError(f'arch={arch!r} must be one of {", ".join(archs)}, or a dict with {" and ".join(required)}.')
    known = {*required, *defaults}
    if unknown := set(arch) - known:
        names = ', '.join(sorted(map(str, unknown)))
        raise ValueError(f'Unknown field of arch: {names}; fields are {", ".join(sorted(known))}.')
    if missing := set(required) - set(arch):
        raise ValueError(f'arch lacks {" and ".join(sorted(missing))}: give both, e.g. {example}.')
    return defaults | dict(arch)


def pretrained_init_cfg(init_cfg: Any, pretrained: object) -> dict | list | None:
    """Validates `init_cfg`, or converts `pretrained`, its short form in mmseg and in older configs."""
    if isinstance(init_cfg, str):
        raise ValueError(
            f"init_cfg={init_cfg!r} must be a dict: init_cfg=dict(type='Pretrained', checkpoint={init_cfg!r})."
        )
    if isinstance(init_cfg, tuple):
        init_cfg = list(init_cfg)
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg] if init_cfg else []
    for cfg in cfgs:
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ValueError(f'init_cfg={init_cfg!r} must be a dict with a type, or a list of such.')
        if _is_pretrained(cfg) and not isinstance(cfg.get('checkpoint'), (str, Path)):
            raise ValueError(f'init_cfg={init_cfg!r} must name the checkpoint, a file or URL.')
    names_weights = any(map(_is_pretrained, [*cfgs, *(part for cfg in cfgs for part in _overrides(cfg))]))
    if names_weights and not (len(cfgs) == 1 and _is_pretrained(cfgs[0])):
        # MMEngine would load these weights itself and unpickle the file
        raise ValueError(f"init_cfg={init_cfg!r} mixes weights with other settings: pass only the 'Pretrained' dict.")
    if names_weights:
        init_cfg = dict(cfgs[0], type='Pretrained')
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str) or init_cfg:
        both = f' and init_cfg={init_cfg!r} both name weights' if init_cfg else ' must be a file or URL'
        raise ValueError(f'pretrained={pretrained!r}{both}: give one init_cfg=dict(type=..., checkpoint=...).')
    return dict(type='Pretrained', checkpoint=pretrained)


def _is_pretrained(cfg: dict) -> bool:
    kind = cfg.get('type')
    return kind is PretrainedInit or str(kind).rpartition('.')[2] in ('Pretrained', PretrainedInit.__name__)


def _overrides(cfg: dict) -> list[dict]:
    """The parts that MMEngine initialises separately."""
    parts = cfg.get('override') or []
    return [part for part in ([parts] if isinstance(parts, dict) else parts) if isinstance(part, dict)]


def linear_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Rate of stochastic depth of each block, rising linearly from 0."""
    return torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
