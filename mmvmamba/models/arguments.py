"""What both families ask of their arguments and inputs: each refusal names the argument and what it can be."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(f'{name}={value!r} must be one of {", ".join(choices)}.')


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """An integer of at least `least`; a bool or 2.0 is none."""
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ValueError(
            f'{name}={value!r} must be an integer, {f"at least {least}" if most is None else f"{least} to {most}"}.'
        )


def check_rate(name: str, value: object) -> None:
    """A share that something is left of."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f'{name}={value!r} must be a number, 0 to less than 1.')


def check_outputs(out_indices: object, count: int, what: str, first: int = 0) -> None:
    """A sequence of numbers of stages or blocks."""
    if not isinstance(out_indices, Collection) or isinstance(out_indices, (str, dict)):
        raise ValueError(f'out_indices={out_indices!r} must be a tuple, of one {what} too: out_indices=({count - 1},).')
    if not out_indices or any(type(i) is not int or i not in range(first, count) for i in out_indices):
        raise ValueError(f'out_indices={out_indices} must name {what}s {first} to {count - 1}.')


def check_image(x: Tensor, channels: int, least: int = 1) -> None:
    """A batch of normalised images of `channels` channels, at least `least` pixels wide and high.

    Raises:
        ValueError: another rank, number of channels, type or size.
    """
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


def resolve_arch(arch: object, archs: dict[str, dict], required: tuple[str, ...], defaults: dict, example: str) -> dict:
    """All fields of an architecture that is given by name or as a dict."""
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
        raise ValueError(f'Unknown field of arch: {", ".join(sorted(unknown))}. Fields are {", ".join(sorted(known))}.')
    if missing := set(required) - set(arch):
        raise ValueError(f'arch lacks {" and ".join(sorted(missing))}: give both, e.g. {example}.')
    return defaults | dict(arch)


def pretrained_init_cfg(init_cfg: object, pretrained: object) -> dict | list | None:
    """`init_cfg`, or what `pretrained`, its spelling in mmseg and in older configs, stands for."""
    if isinstance(init_cfg, str):
        raise ValueError(
            f"init_cfg={init_cfg!r} must be a dict: init_cfg=dict(type='Pretrained', checkpoint={init_cfg!r})."
        )
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str) or init_cfg:
        both = f' and init_cfg={init_cfg!r} both name weights' if init_cfg else ' must be a file or URL'
        raise ValueError(f'pretrained={pretrained!r}{both}: give one init_cfg=dict(type=..., checkpoint=...).')
    return dict(type='Pretrained', checkpoint=pretrained)


def linear_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Stochastic depth of each block, rising linearly from 0."""
    return torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
