"""Two ranks over gloo: what freezing promises must also hold under DistributedDataParallel."""

import torch
import torch.distributed as dist
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from mmvmamba import VMamba


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
