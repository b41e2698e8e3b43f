"""Damaged and crafted checkpoint files, made again from a seed, read and loaded.

    python -m tests.test_checkpoint.fuzz --cases 2000 --seed 0

Of each file one of three things must come: the weights that were saved, other weights where the file says so itself
(a pickle that was rewritten with its checksum), or one sentence of ours and an unchanged model. No file may run code.
"""

import argparse
import io
import json
import logging
import os
import pickle
import pickletools
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba import VMamba
from mmvmamba.checkpoint import CheckpointError, load_checked, read_checkpoint, unwrap_state_dict

from .attacks import CODE, MEMORY, Calls, rewrite

ARCH = dict(dims=4, depths=(1, 1, 1, 1), ssm_ratio=1.0)
SECONDS = 20  # for one file


class Fuzzer:
    def __init__(self, folder: Path, seed: int):
        self.chance, self.folder = random.Random(seed), folder
        torch.manual_seed(seed)
        self.model = VMamba(ARCH)
        self.weights = {name: torch.randn_like(t) for name, t in self.model.state_dict().items()}
        self.marker = folder / 'marker'
        self.zipped = self.bytes_of(self.content())
        self.legacy = self.bytes_of(self.content(), _use_new_zipfile_serialization=False)
        from safetensors.torch import save

        self.tensors = save(self.weights)

    def content(self) -> dict:
        """As mmengine writes it."""
        hub = dict(log_scalars={'loss': HistoryBuffer([1.0, 2.0], [1, 1])}, runtime_info={'iter': 3}, resumed_keys={})
        meta = dict(epoch=1, iter=3, seed=0, dataset_meta=dict(classes=('a', 'b'), palette=np.arange(6)))
        optimizer = dict(state={0: dict(step=torch.ones(()))}, param_groups=[dict(lr=1e-3, params=[0])])
        return dict(state_dict=OrderedDict(self.weights), meta=meta, message_hub=hub, optimizer=optimizer)

    def bytes_of(self, content, **options) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, **options)
        return file.getvalue()

    # Each makes a file, and says whether other weights than those saved may come of it.

    def flipped(self):
        """Bits, in any format with checksums."""
        damaged = bytearray(self.zipped)
        for _ in range(self.chance.choice((1, 1, 2, 20))):
            damaged[self.chance.randrange(len(damaged))] ^= 1 << self.chance.randrange(8)
        return bytes(damaged), False

    def flipped_without_checksum(self):
        """Bits, in formats that have none: tensors may differ, nothing else may happen."""
        damaged = bytearray(self.chance.choice((self.legacy, self.tensors)))
        head = self.chance.choice((200, 2000, len(damaged)))
        for _ in range(self.chance.choice((1, 3))):
            damaged[self.chance.randrange(min(head, len(damaged)))] ^= 1 << self.chance.randrange(8)
        return bytes(damaged), True

    def cut(self):
        whole = self.chance.choice((self.zipped, self.legacy, self.tensors))
        if self.chance.random() < 0.2:  # a piece in the middle
            start, end = sorted(self.chance.sample(range(len(whole)), 2))
            return whole[:start] + whole[end:], whole is not self.zipped
        return whole[: self.chance.randrange(len(whole))], False

    def rewritten_pickle(self):
        """Any bytes of the pickle, under a right checksum: what an attacker would write."""
        path = self.folder / 'rewritten.pth'
        path.write_bytes(self.zipped)
        others = self.chance.choice((1, 1, 2, 5))

        def change(name, content):
            if not name.endswith('data.pkl'):
                return name, content
            pickle = bytearray(content)
            for _ in range(others):
                place = self.chance.randrange(len(pickle))
                pickle[place] = self.chance.choice((self.chance.randrange(256), self.chance.choice(b'Rb\x81cq.(t}]u')))
            return name, bytes(pickle)

        return rewrite(path, change).read_bytes(), True

    def crafted(self):
        """A thing that is more than data, in any place of the file."""
        attack = self.chance.choice([*MEMORY.values(), *CODE.values(), Calls(open, str(self.marker), 'w')])
        content = self.content()
        place = self.chance.randrange(12)
        if place == 0:
            content['state_dict'][self.chance.choice(list(self.weights))] = attack
        elif place == 1:
            content['state_dict']._metadata = {'': attack}
        elif place == 2:
            content['message_hub']['log_scalars']['loss'] = attack
        elif place == 3:
            content['optimizer']['state'][0]['step'] = attack
        elif place == 4:
            content['meta']['dataset_meta'] = [attack, (attack,)]
        elif place == 5:
            content = {'model': self.weights, 'config': attack}
        elif place == 6:
            content['optimizer']['param_groups'][0]['betas'] = (0.9, attack)
        elif place == 7:
            content['param_schedulers'] = [attack]
        elif place == 8:
            content[attack] = 'a key'
        elif place == 9:
            content['state_dict'][attack] = torch.ones(2)
        elif place == 10:
            name = self.chance.choice(list(self.weights))
            content['state_dict'][name] = with_hooks(self.weights[name], attack)
        else:
            content = attack
        return self.bytes_of(content, _use_new_zipfile_serialization=self.chance.random() < 0.7), True

    def swapped(self):
        """Tensors that changed places, types or strides, or share memory."""
        content, names = self.content(), list(self.weights)
        tensors = content['state_dict']
        first, second = self.chance.sample(names, 2)
        kind = self.chance.randrange(8)
        if kind == 0:
            tensors[first], tensors[second] = tensors[second], tensors[first]
        elif kind == 1:
            types = (torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2)
            tensors[first] = tensors[first].to(self.chance.choice(types))
        elif kind == 2:
            tensors[first] = tensors[first].to_sparse()
        elif kind == 3:
            tensors[first] = torch.zeros(1).expand(2 ** self.chance.randrange(1, 34))
        elif kind == 4:
            tensors[first] = torch.quantize_per_tensor(tensors[first], 0.1, 0, torch.qint8)
        elif kind == 5:
            tensors[first] = tensors[second]
        elif kind == 6:  # as many values as there should be, all in one place
            tensors[first] = tensors[second].flatten()[:1].expand(tensors[first].numel()).view_as(tensors[first])
        else:
            tensors[self.chance.choice((first, 7, None, ('a',), b'b'))] = tensors[second].flatten()[:1]
        return self.bytes_of(content, _use_new_zipfile_serialization=self.chance.random() < 0.7), True

    def legacy_pickle(self):
        """Torch's format before 1.6 is five pickles, then the storages: one of the five is an attack, or damaged."""
        number, ends = self.chance.randrange(5), [0]
        stream = io.BytesIO(self.legacy)
        for _ in range(5):
            for _ in pickletools.genops(stream):
                pass
            ends.append(stream.tell())
        start, end = ends[number : number + 2]
        if self.chance.random() < 0.5:
            changed = pickle.dumps(self.chance.choice([*CODE.values(), Calls(open, str(self.marker), 'w')]), 2)
        else:
            changed = bytearray(self.legacy[start:end])
            for _ in range(self.chance.choice((1, 2, 5))):
                changed[self.chance.randrange(len(changed))] = self.chance.choice(b'Rb\x81cq.(t}]u\x00\xff')
        return self.legacy[:start] + bytes(changed) + self.legacy[end:], True

    def tar(self):
        """The format of torch before 0.2, which `torch.load` still unpickles."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode='w') as archive:
            for name in ('sys_info', 'pickle', 'tensors', 'storages'):
                content = pickle.dumps(Calls(open, str(self.marker), 'w') if self.chance.random() < 0.5 else [], 2)
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue(), True

    def safetensors_header(self):
        """Another header over the same bytes: other places, types and shapes, and what is no header."""
        length = int.from_bytes(self.tensors[:8], 'little')
        header, body = json.loads(self.tensors[8 : 8 + length]), self.tensors[8 + length :]
        names = [name for name in header if name != '__metadata__']
        first, second = self.chance.sample(names, 2)
        kind = self.chance.randrange(9)
        if kind == 0:  # two tensors in one place
            header[first] = header[second]
        elif kind == 1:
            header[first]['data_offsets'] = [self.chance.choice((-8, 0, 2**40)), self.chance.choice((0, 8, 2**63))]
        elif kind == 2:
            header[first]['dtype'] = self.chance.choice(('F64', 'I8', 'BOOL', 'F8_E5M2', 'X', 7, None))
        elif kind == 3:
            header[first]['shape'] = self.chance.choice(([-1], [2**62, 4], [], [1.5], 'x', None, [0]))
        elif kind == 4:
            del header[first][self.chance.choice(('dtype', 'shape', 'data_offsets'))]
        elif kind == 5:
            header['__metadata__'] = self.chance.choice(({'format': 7}, [], 'x', {'a': {'b': 'c'}}))
        elif kind == 6:
            header[first], header[second] = header[second], header[first]
        encoded = json.dumps(header).encode()
        if kind == 7:
            encoded = self.chance.choice((b'[' * 10**5, b'null', b'[]', b'7', b'{"a":1}', b'\xff\xfe', b''))
        length = self.chance.choice((0, 2**31, 2**63, 2**64 - 1)) if kind == 8 else len(encoded)
        return length.to_bytes(8, 'little') + encoded + body, True

    def packed(self):
        """Zips as PyTorch does not write them."""
        path = self.folder / 'packed.pth'
        path.write_bytes(self.zipped)
        if self.chance.random() < 0.3:  # a pickle where TorchScript, or nobody, has one
            name = self.chance.choice(('constants.pkl', 'version', 'byteorder', 'data/0', '../data.pkl', 'other.pkl'))
            with zipfile.ZipFile(path, 'a') as archive, warnings.catch_warnings():
                warnings.simplefilter('ignore')
                folder = archive.namelist()[0].split('/')[0]
                archive.writestr(f'{folder}/{name}', pickle.dumps(Calls(open, str(self.marker), 'w')))
            return path.read_bytes(), True
        if self.chance.random() < 0.3:
            return rewrite(path, lambda *record: record, zipfile.ZIP_DEFLATED).read_bytes(), False
        lost = self.chance.randrange(len(zipfile.ZipFile(path).namelist()))
        counter = iter(range(10**6))
        return rewrite(path, lambda *record: None if next(counter) == lost else record).read_bytes(), True

    kinds = (
        flipped,
        flipped_without_checksum,
        cut,
        rewritten_pickle,
        crafted,
        swapped,
        packed,
        legacy_pickle,
        tar,
        safetensors_header,
    )

    def run(self, number: int) -> tuple[str, str, str]:
        """(kind, outcome, what is wrong or '') of one file."""
        make = self.kinds[number % len(self.kinds)]
        content, may_differ = make(self)
        is_safetensors = make is Fuzzer.safetensors_header or content[:8] == self.tensors[:8]
        path = self.folder / ('case.safetensors' if is_safetensors else 'case.pth')
        path.write_bytes(content)
        for tensor in self.model.state_dict().values():
            tensor.fill_(0.5)
        try:
            load_checked(self.model, unwrap_state_dict(read_checkpoint(path), path), path)
            outcome = 'loaded'
        except CheckpointError as error:
            outcome, sentence = 'refused', str(error)
        after = self.model.state_dict()
        if self.marker.exists():
            return make.__name__, outcome, 'the file ran code'
        if outcome == 'refused':
            unchanged = all((tensor == 0.5).all() for tensor in after.values())
            wrong = '' if unchanged else 'half of it was loaded'
            wrong = wrong or ('' if '\n' not in sentence and path.name in sentence else f'the sentence is {sentence!r}')
            return make.__name__, outcome, wrong
        same = all(torch.equal(tensor, self.weights[name]) for name, tensor in after.items())
        return make.__name__, outcome, '' if same or may_differ else 'damaged weights were loaded'


def with_hooks(tensor, hooks):
    """A tensor that is rebuilt with these backward hooks."""
    place = (tensor._typed_storage(), 0, tuple(tensor.shape), tensor.stride())
    return Calls(torch._utils._rebuild_tensor_v2, *place, False, hooks)


def stop(*_):
    raise TimeoutError(f'more than {SECONDS} s')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, stop)
    started, outcomes, faults = time.monotonic(), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fuzzer = Fuzzer(Path(folder), args.seed)
        methods = dict(HistoryBuffer._statistics_methods)
        for number in range(args.cases):
            signal.alarm(SECONDS)
            try:
                kind, outcome, wrong = fuzzer.run(number)
            except Exception:  # what a user would meet as a traceback
                kind, outcome, wrong = (
                    Fuzzer.kinds[number % len(Fuzzer.kinds)].__name__,
                    'foreign',
                    traceback.format_exc(),
                )
            signal.alarm(0)
            outcomes[kind, outcome] += 1
            if not wrong and (HistoryBuffer._statistics_methods != methods or repr(np.ones(1)) != 'array([1.])'):
                wrong = 'a class was changed'
            if wrong:
                faults.append(f'case {number} ({kind}): {wrong}')
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f'{kind:26}{outcome:9}{count:6}')
    print(f'{args.cases} files in {time.monotonic() - started:.0f} s, {len(faults)} faults')
    sys.exit('\n'.join(faults[:20]) or None)


if __name__ == '__main__':
    main()
