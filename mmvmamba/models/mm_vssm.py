"""VMamba with its official name and arguments, so that official config files run unchanged."""

import logging
import re
from pathlib import Path

from mmengine.logging import print_log
from mmengine.registry import MODELS

from .validation import pretrained_init_cfg
from .vmamba import VMamba

# Most of these names differ only in kernels and numeric precision.
_FORWARD_TYPE = re.compile(r'v0|v0seq|(?P<class_v2>v0[1-5]|v2|v3|v051d|v052d)(?P<no_gate>_noz)?(_no32)?')
_TRAVERSALS = {'v051d': 'unidirectional', 'v052d': 'bidirectional'}

_IMPLEMENTED = dict(
    norm_layer=('ln', 'ln2d'),
    patch_size=(4,),
    ssm_act_layer=('silu',),
    ssm_conv=(3,),
    ssm_drop_rate=(0,),
    ssm_init=('v0',),
    mlp_act_layer=('gelu',),
    mlp_drop_rate=(0,),
    gmlp=(False,),
    patch_norm=(True,),
    downsample_version=('v1', 'v3'),
    patchembed_version=('v1', 'v2'),
    posembed=(False,),
)

# Official configs inherit these from a Swin config; the official backbone accepts and ignores them.
_SWIN_LEFTOVERS = (
    'embed_dims',
    'num_heads',
    'window_size',
    'qkv_bias',
    'qk_scale',
    'drop_rate',
    'attn_drop_rate',
    'use_abs_pos_embed',
    'strides',
    'convert_weights',
    'norm_cfg',
    'act_cfg',
    'pretrain_img_size',
)


@MODELS.register_module()
def MM_VSSM(
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
    pretrained: str | None = None,
    norm_layer: str = 'ln',
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 1000,
    depths: tuple[int, ...] = (2, 2, 9, 2),
    dims: int | tuple[int, ...] = (96, 192, 384, 768),
    ssm_d_state: int = 16,
    ssm_ratio: float = 2.0,
    ssm_dt_rank: int | str = 'auto',
    ssm_act_layer: str = 'silu',
    ssm_conv: int = 3,
    ssm_conv_bias: bool = True,
    ssm_drop_rate: float = 0.0,
    ssm_init: str = 'v0',
    forward_type: str = 'v2',
    mlp_ratio: float = 4.0,
    mlp_act_layer: str = 'gelu',
    mlp_drop_rate: float = 0.0,
    gmlp: bool = False,
    drop_path_rate: float = 0.1,
    patch_norm: bool = True,
    downsample_version: str = 'v2',
    patchembed_version: str = 'v1',
    use_checkpoint: bool = False,
    posembed: bool = False,
    imgsize: int = 224,
    init_cfg: dict | None = None,
    with_cp: bool = False,
    # the Swin leftovers
    embed_dims: int | None = None,
    num_heads: list | None = None,
    window_size: int | None = None,
    qkv_bias: bool | None = None,
    qk_scale: float | None = None,
    drop_rate: float | None = None,
    attn_drop_rate: float | None = None,
    use_abs_pos_embed: bool | None = None,
    strides: tuple | None = None,
    convert_weights: bool | None = None,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
    pretrain_img_size: int | None = None,
) -> VMamba:
    """Builds VMamba from the arguments of the official class; unknown arguments are errors.

    The defaults are the official ones. `num_classes` and `imgsize` have no effect on a backbone without position
    embedding. Unlike the official class, this one raises if `pretrained` cannot be read or does not fit, supports
    `with_cp`, and accepts an `init_cfg` that is not Swin's.

    Raises:
        ValueError: an argument requests something that is not implemented; the message names it.
    """
    given = locals()
    for name, values in _IMPLEMENTED.items():
        value = given[name].lower() if isinstance(given[name], str) else given[name]
        if value not in values:
            choices = ' or '.join(map(repr, values))
            raise ValueError(f'{name}={given[name]!r} is not implemented: it must be {choices}.')
    kind = _FORWARD_TYPE.fullmatch(str(forward_type))
    if kind is None:
        raise ValueError(
            f'forward_type={forward_type!r} is not implemented: it must be v0, or one of v01 to v05, v2, v3, v051d and '
            'v052d, with _noz for no gate.'
        )
    if ignored := [name for name in _SWIN_LEFTOVERS if given[name] is not None]:
        print_log(f'MM_VSSM ignores inherited arguments of Swin: {", ".join(ignored)}.', logger='current')
    return VMamba(
        arch=dict(
            dims=dims,
            depths=depths,
            ssm_ratio=ssm_ratio,
            d_state=ssm_d_state,
            dt_rank=ssm_dt_rank,
            mlp_ratio=mlp_ratio,
            gate=kind['no_gate'] is None,
            conv_bias=ssm_conv_bias or kind['class_v2'] is None,  # v0 always has a bias
            stem={'v1': 'patch', 'v2': 'conv'}[patchembed_version.lower()],
            downsample={'v1': 'merging', 'v3': 'conv'}[downsample_version.lower()],
        ),
        in_channels=in_chans,
        out_indices=out_indices,
        drop_path_rate=drop_path_rate,
        traversals=_TRAVERSALS.get(kind['class_v2'], 'cross'),
        with_cp=with_cp or use_checkpoint,
        init_cfg=pretrained_init_cfg(_without_swin(init_cfg), pretrained or None),  # for MMEngine to load
    )


def _without_swin(init_cfg: dict | None) -> dict | None:
    if isinstance(init_cfg, dict) and 'swin' in Path(str(init_cfg.get('checkpoint', ''))).name.lower():
        print_log(
            f'MM_VSSM ignores the init_cfg of Swin that its config inherits: {init_cfg["checkpoint"]}.',
            logger='current',
            level=logging.WARNING,
        )
        return None
    return init_cfg
