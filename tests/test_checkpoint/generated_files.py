"""Checkpoint files made from a seed: damaged ones, and crafted ones of every format that the reader knows."""

import io
import json
import pickle
import pickletools
import random
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmvmamba import VMamba

from .attacks import CODE, MEMORY, Calls, rewrite
from .hostile_files import HONEST, HOSTILE
from .pickle_grammar import PickleGrammar
from .raw import file_of, pickled
from .zip_grammar import changed_zip

ARCH = dict(dims=4, depths=(1, 1, 1, 1), ssm_ratio=1.0)


class Generator:
    """Methods that make a file, and tell whether it may contain other weights than those that were saved."""

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

    def legacy_ends(self) -> list[int]:
        """Where the five pickles of the format before PyTorch 1.6 begin and end."""
        ends, stream = [0], io.BytesIO(self.legacy)
        for _ in range(5):
            for _ in pickletools.genops(stream):
                pass
            ends.append(stream.tell())
        return ends

    def legacy_pickle(self):
        """Torch's format before 1.6 is five pickles, then the storages: one of the five is an attack, or damaged."""
        number, ends = self.chance.randrange(5), self.legacy_ends()
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

    def structured_pickle(self):
        """Instructions by their grammar, in a zip file or bare, sometimes with other bytes among them."""
        value = PickleGrammar(self.chance, self.marker).content()
        if self.chance.random() < 0.3:
            value = self.scattered(value)
        if self.chance.random() < 0.1:
            return pickled(value), True
        storages = {f'_{key}': self.chance.randbytes(16) for key in range(3)}
        return file_of(value, **storages), True

    def growing(self):
        """A large object, and many calls that could copy it."""
        return file_of(PickleGrammar(self.chance, self.marker).growing(), _0=bytes(2**16)), True

    def structured_zip(self):
        """Records, directories and ends that contradict one another."""
        return changed_zip(self.zipped, self.chance)

    def legacy_storages(self):
        """Lists of storages and their sizes that contradict the tensors."""
        ends = self.legacy_ends()
        keys, storages = pickle.loads(self.legacy[ends[4] : ends[5]]), self.legacy[ends[5] :]
        kind = self.chance.randrange(6)
        if kind == 0:
            keys = self.chance.sample(keys, self.chance.randrange(len(keys)))
        elif kind == 1:
            self.chance.shuffle(keys)
        elif kind == 2:
            keys[self.chance.randrange(len(keys))] = self.chance.choice((keys[0], '', 'x', 0, None, (1,)))
        elif kind == 3:
            storages = storages[: self.chance.randrange(len(storages))]
        elif kind == 4:
            storages = struct.pack('<q', self.chance.choice((-1, 0, 1, 2**31, 2**62))) + storages[8:]
        else:
            keys = self.chance.choice(([], {}, None, [keys], keys + keys))
        return self.legacy[: ends[4]] + pickle.dumps(keys, 2) + storages, True

    def by_hand(self):
        """A file made by hand, with other bytes in it."""
        small = [content for content in (HOSTILE | HONEST).values() if len(content) < 10**5]
        return self.scattered(self.chance.choice(small)), True

    def scattered(self, content: bytes) -> bytes:
        content = bytearray(content)
        for _ in range(self.chance.choice((1, 2, 5))):
            place = self.chance.randrange(len(content) + 1)
            piece = self.chance.choice(
                (b'', self.chance.randbytes(1), b'R', b'b', b'\x81', b'Q', b'\xff' * 4, b'q\0h\0')
            )
            content[place : place + self.chance.choice((0, 1, 1, len(piece)))] = piece
        return bytes(content)

    kinds = (
        flipped,
        flipped_without_checksum,
        cut,
        rewritten_pickle,
        crafted,
        swapped,
        packed,
        legacy_pickle,
        legacy_storages,
        tar,
        safetensors_header,
        structured_pickle,
        structured_pickle,
        growing,
        structured_zip,
        by_hand,
    )


def with_hooks(tensor, hooks):
    """A tensor that is rebuilt with these backward hooks."""
    place = (tensor._typed_storage(), 0, tuple(tensor.shape), tensor.stride())
    return Calls(torch._utils._rebuild_tensor_v2, *place, False, hooks)
