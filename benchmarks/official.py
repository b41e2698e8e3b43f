"""Compares outputs and gradients of our backbones with those of the official classes, on a CPU.

    python benchmarks/official.py --vmamba CHECKOUT_OF_VMAMBA --vim CHECKOUT_OF_VIM [--only tiny]

Both use the same random weights (the official initialisation plus 0.05 N(0, 1)) with the official keys. The error of a
tensor is max |ours - official| / max |official| in float32. The script prints the largest error of VMamba's maps or
Vim's logits and, for Vim, the error of the official logits against ours in float64. With --gradients, which takes
minutes, it also prints the largest error of the gradients of the image and all parameters. The official classes are
unmodified, but run in PyTorch instead of their CUDA and Triton kernels. Their unused imports are replaced with stubs.
"""

import argparse
import copy
import importlib
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmamba import Vim, VMamba

VMAMBAS = ('tiny_s1l8', 'tiny_s2l5', 'small_s2l15', 'base_s2l15', 'small_s1l20', 'base_s1l20')
VANILLAS = ('vanilla_tiny', 'vanilla_small', 'vanilla_base')
VMAMBA_SIZES = ((224, 224), (193, 257))
GRADIENT_SIZE = (48, 80)  # for VMamba: on a CPU, autograd of the official scan is quadratic in the number of pixels
# The official factory and our arguments.
VIMS = {
    'tiny': ('vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2', {}),
    'small': ('vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2', {}),
    'base': ('vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2', {}),
    'tiny, stride 8': (
        'vim_tiny_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2',
        dict(patch_stride=8),
    ),
    'small, stride 8': (
        'vim_small_patch16_stride8_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2',
        dict(patch_stride=8),
    ),
}


def stand_in(name: str, **attributes) -> types.ModuleType:
    """Registers a stub module with the given name and attributes for all later imports."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


def perturb(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def error(ours: Tensor, official: Tensor) -> float:
    return ((ours - official).abs().max() / official.abs().max()).item()


def gradient_error(ours: nn.Module, official: nn.Module, x: Tensor) -> float:
    """Returns the largest gradient error over the image and all parameters, for a randomly weighted sum of outputs."""
    gradients = []
    for model in (ours, official):
        image = x.clone().requires_grad_()
        model.zero_grad()
        generator = torch.Generator().manual_seed(1)
        outs = model(image)
        weights = [torch.randn(out.shape, generator=generator) for out in outs]
        torch.stack([(out * weight).sum() for out, weight in zip(outs, weights)]).sum().backward()
        gradients.append({'image': image.grad} | {name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    return max(error(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def import_vmamba(checkout: Path) -> types.ModuleType:
    unused = ('FlopCountAnalysis', 'flop_count_str', 'flop_count', 'parameter_count')
    stand_in('fvcore')
    stand_in('fvcore.nn', **dict.fromkeys(unused))
    sys.path.insert(0, str(checkout / 'classification' / 'models'))
    return importlib.import_module('vmamba')


def compare_vmamba(official: types.ModuleType, arch: str, gradients: bool) -> dict[str, float]:
    """Returns the errors of the four maps, by image size, and optionally of the gradients."""
    vanilla = arch in VANILLAS
    theirs = getattr(official, arch.replace('_', '_vmamba_') if vanilla else f'vmamba_{arch}')()
    theirs.__class__ = official.Backbone_VSSM  # avoids its constructor, which needs the arguments set in the factory
    theirs.out_indices, theirs.channel_first = (0, 1, 2, 3), not vanilla
    norm = nn.LayerNorm if vanilla else official.LayerNorm2d
    for i, channels in enumerate(theirs.dims):
        theirs.add_module(f'outnorm{i}', norm(channels))
    del theirs.classifier
    perturb(theirs)
    ours = VMamba(arch)
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = ours.eval(), theirs.eval()
    found = {}
    for size in VMAMBA_SIZES:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            found['{} x {}'.format(*size)] = max(map(error, ours(x), theirs(x)))
    if gradients:
        found['gradients'] = gradient_error(ours, theirs, torch.randn(1, 3, *GRADIENT_SIZE))
    return found


def import_vim(checkout: Path) -> types.ModuleType:
    """Imports the Mamba package that is bundled with Vim, without the parts that need a GPU, and then Vim."""
    stand_in('selective_scan_cuda')
    stand_in('causal_conv1d', causal_conv1d_fn=None, causal_conv1d_update=None)
    stand_in('causal_conv1d_cuda')
    stand_in('mamba_ssm').__path__ = [str(checkout / 'mamba-1p1p1' / 'mamba_ssm')]
    stand_in('mamba_ssm.utils.generation', GenerationMixin=object)
    stand_in('mamba_ssm.utils.hf', load_config_hf=None, load_state_dict_hf=None)
    norms = importlib.import_module('mamba_ssm.ops.triton.layer_norm')
    scans = importlib.import_module('mamba_ssm.ops.selective_scan_interface')

    def rms_norm(x, weight, bias, residual=None, eps=1e-5, prenorm=False, residual_in_fp32=False, **unused):
        return norms.rms_norm_ref(x, weight, bias, residual=residual, eps=eps, prenorm=prenorm)

    def inner(xz, conv_weight, conv_bias, x_proj, dt_proj, A, B, C, D, delta_bias, delta_softplus):
        x, z = xz.chunk(2, 1)
        x = F.silu(F.conv1d(x, conv_weight, conv_bias, padding=3, groups=x.shape[1])[..., : x.shape[-1]])
        rank, states = dt_proj.shape[1], A.shape[1]
        dt, B, C = torch.einsum('ed,bdl->bel', x_proj, x).split((rank, states, states), 1)
        dt = torch.einsum('dr,brl->bdl', dt_proj, dt)
        return scans.selective_scan_ref(x, dt, A, B, C, D, z, delta_bias, delta_softplus)

    vars(norms)['rms_norm_fn'], vars(scans)['mamba_inner_fn_no_out_proj'] = rms_norm, inner
    sys.path.insert(0, str(checkout / 'vim'))
    return importlib.import_module('models_mamba')


class Classifier(nn.Module):
    """Our backbone and a linear head, with the official parameter names."""

    def __init__(self, backbone: Vim, head: nn.Linear):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[0])

    def named_parameters(self, *args, **kwargs):
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.removeprefix('backbone.'), parameter


def compare_vim(official: types.ModuleType, name: str, gradients: bool) -> dict[str, float]:
    """Returns the errors of the logits, optionally the gradients, and the official logits against ours in float64."""
    factory, options = VIMS[name]
    theirs = getattr(official, factory)()
    perturb(theirs)
    ours = Vim(name.split(',')[0], pooling='middle', **options)
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = Classifier(ours, copy.deepcopy(theirs.head)).eval(), theirs.eval()
    x = torch.randn(1, 3, 224, 224)
    found = {'gradients': gradient_error(ours, theirs, x)} if gradients else {}
    with torch.no_grad():
        expected = theirs(x)
        found['logits'] = error(ours(x), expected)
        found['official against float64'] = error(expected, ours.double()(x.double()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--vmamba', type=Path, help='checkout of MzeroMiko/VMamba')
    parser.add_argument('--vim', type=Path, help='checkout of hustvl/Vim')
    parser.add_argument('--gradients', action='store_true', help='also compare gradients')
    parser.add_argument('--only', default='', help='run only variants whose name contains this')
    options = parser.parse_args()
    families = (
        ('VMamba', options.vmamba, import_vmamba, VMAMBAS + VANILLAS, compare_vmamba),
        ('Vim', options.vim, import_vim, VIMS, compare_vim),
    )
    for family, checkout, import_official, variants, compare in families:
        if checkout is None:
            continue
        official = import_official(checkout)
        for name in variants:
            if options.only in name:
                torch.manual_seed(0)
                # The official cross scan calls torch.cuda.device for its input, which fails on a CPU.
                with patch('torch.cuda.device', nullcontext):
                    found = compare(official, name, options.gradients)
                print(
                    f'{family} {name}:', ', '.join(f'{what} {value:.1e}' for what, value in found.items()), flush=True
                )


if __name__ == '__main__':
    main()
