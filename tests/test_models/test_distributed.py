"""Tests over gloo that several ranks compute the same as one process, for DDP, gradient accumulation and FSDP."""

import os
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from mmvmamba import Vim, VMamba
from mmvmamba.models.vim import VimBlock
from mmvmamba.models.vmamba import VSSBlock

BUILD = {
    'VMamba': partial(VMamba, dict(dims=8, depths=(1, 1, 1, 1)), drop_path_rate=0.0),
    'Vim': partial(Vim, dict(embed_dims=16, depth=2), img_size=64, out_indices=(0, 1)),
}
BLOCKS = ModuleWrapPolicy({VSSBlock, VimBlock})


def build(family, **options):
    torch.manual_seed(0)
    return BUILD[family](**options)


def images():
    return torch.randn(8, 3, 48, 40, generator=torch.Generator().manual_seed(1))


def loss(outs):
    return sum(out.float().sin().mean() for out in outs)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        error = (tensor.float() - expected[name].float()).norm() / expected[name].float().norm()
        assert error <= 1e-5, f'{name}: {error:.1e}'


def check_data_parallel(family, own):
    """Checks gradients and outputs over two steps, with the options that change the backward pass."""
    single = build(family)
    loss(single(images())).backward()
    expected = gradients(single)
    for options in (dict(), dict(with_cp=True), dict(frozen_stages=1)):
        model = build(family, **options)
        parallel = DistributedDataParallel(model)  # a parameter without a gradient would make the second step fail
        for _ in range(2):
            model.zero_grad()
            loss(parallel(images()[own])).backward()
            trained = {name for name, p in model.named_parameters() if p.requires_grad}
            assert ('frozen_stages' in options) == (trained < expected.keys())
            assert_same(gradients(model), {name: expected[name] for name in trained})
    with torch.no_grad():
        for found, wanted in zip(parallel.eval()(images()[own]), single.eval()(images())):
            torch.testing.assert_close(found, wanted[own], rtol=1e-5, atol=1e-5)
    return expected


def check_accumulation(family, own, expected):
    """Splits the images of a rank into two halves; only the second backward pass communicates."""
    model = build(family)
    parallel, before = DistributedDataParallel(model), {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=2.0**60), accumulative_counts=2)
    optimizer.initialize_count_status(model, 0, 2)
    for half in images()[own].chunk(2):
        with optimizer.optim_context(parallel):
            out = loss(parallel(half))
        optimizer.update_params(out)
    assert_same({n: (before[n] - p.detach()) / 2.0**60 for n, p in model.named_parameters()}, expected)


def check_shared_parameters(family, own, world, expected):
    """Checks FSDP. In mixed precision, the gradients are the mean of those of a complete model in bfloat16."""
    low = build(family).bfloat16()
    loss(low(images()[own].bfloat16())).backward()
    mean = {name: grad.float() / world for name, grad in gradients(low).items()}
    for tensor in mean.values():
        dist.all_reduce(tensor)
    mixed = fsdp.MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for precision, wanted in ((None, expected), (mixed, mean)):
        model = fsdp.FullyShardedDataParallel(
            build(family), auto_wrap_policy=BLOCKS, mixed_precision=precision, device_id='cpu', use_orig_params=True
        )
        loss(model(images()[own])).backward()
        with fsdp.FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            found = gradients(model)
        assert_same({name.replace('_fsdp_wrapped_module.', ''): grad for name, grad in found.items()}, wanted)


def check_sharded_modules(family, own, world, expected):
    """Checks FSDP2 (`fully_shard`), which shards modules in place."""
    model, mesh = build(family), init_device_mesh('cpu', (world,))
    for module in [m for m in model.modules() if isinstance(m, (VSSBlock, VimBlock))] + [model]:
        fsdp.fully_shard(module, mesh=mesh)
    loss(model(images()[own])).backward()
    assert_same({name: p.grad.full_tensor() for name, p in model.named_parameters()}, expected)


def check_rank(rank, world, folder):
    torch.set_num_threads(1)
    warnings.filterwarnings('error', 'Grad strides do not match')
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=world)
    own = slice(rank, None, world)
    for family in BUILD:
        expected = check_data_parallel(family, own)
        check_accumulation(family, own, expected)
        check_shared_parameters(family, own, world, expected)
        if hasattr(fsdp, 'fully_shard'):  # torch 2.6
            check_sharded_modules(family, own, world, expected)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # about one rank in sixty aborted at exit, in PyTorch's C++ code


@pytest.mark.slow
@pytest.mark.parametrize('world', [2, 4])
def test_ranks_match_a_single_process(world, tmp_path):
    spawn(check_rank, (world, str(tmp_path)), nprocs=world)


def train_two_steps(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = VMamba(dict(dims=8, depths=(1, 1, 1, 1)), frozen_stages=2, drop_path_rate=0.0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    parallel = DistributedDataParallel(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    torch.manual_seed(rank)
    for _ in range(2):  # a parameter without a gradient would make the second step fail
        optimizer.zero_grad()
        sum(out.sin().mean() for out in parallel(torch.randn(2, 3, 64, 64))).backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    frozen = {name for name in before if name.startswith(('patch_embed.', 'layers.0.', 'layers.1.'))}
    assert changed == set(before) - frozen
    torch.save(model.state_dict(), f'{folder}/{rank}.pth')
    dist.destroy_process_group()


def test_frozen_stages_stay_frozen_and_ranks_agree(tmp_path):
    spawn(train_two_steps, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
