"""Reading checkpoint files without running what is in them, and loading them whole or not at all.

A checkpoint is a pickle, and unpickling can run any code. Files are therefore read with ``weights_only=True`` and a
short list of the further types that released files hold; anything else needs an explicit opt-in.
"""

import logging
import os
import re
from collections import OrderedDict
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor

from .matching import listing, match
from .safe_loading import CheckpointError, Refused, load_safely

_trust_all = False


@contextmanager
def trust_checkpoints(trust=True):
    """Inside this context ``read_checkpoint`` trusts every file: what ``--trust-checkpoint`` of the tools does."""
    global _trust_all
    before, _trust_all = _trust_all, trust
    try:
        yield
    finally:
        _trust_all = before


def read_checkpoint(filename, map_location='cpu', trust=False):
    """Reads a checkpoint file as data.

    Args:
        filename (str | Path): a local file, ``.safetensors`` included; an http(s) URL, which is downloaded once into
            the cache of torch.hub; or ``hf://OWNER/REPOSITORY/FILE``, which huggingface_hub downloads into its own.
        map_location: as in ``torch.load``.
        trust (bool): unpickle the file if it holds more than tensors, plain values and the known types. This runs
            whatever code the file names.

    Returns:
        dict: the content; a ``yacs`` config inside it becomes an ``OrderedDict``.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or holds what only unpickling could restore.
    """
    path = _local_path(str(filename))
    try:
        content = load_safely(path, map_location)
    except Refused as refused:
        if not (trust or _trust_all):
            raise CheckpointError(
                f'{filename} was refused and nothing in it was run: it holds {refused}, which only unpickling can '
                'restore, and that may run any code; if you trust whoever made the file, pass --trust-checkpoint to '
                'the tool (trust=True to read_checkpoint)'
            ) from None
        content = torch.load(path, map_location=map_location, weights_only=False)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} is not a checkpoint: it holds a {type(content).__name__} instead of a dict with tensors'
        )
    return content


def unwrap_state_dict(checkpoint, filename='the checkpoint', ema=False):
    """Finds the tensors of a checkpoint: under ``state_dict``, under ``model``, or the dict itself.

    Args:
        checkpoint (dict): what ``read_checkpoint`` returns.
        filename (str): only named in the error.
        ema (bool): take the averaged weights, under ``model_ema``, instead. (In a file of mmengine's EMAHook the
            average is the ``state_dict``.)

    Returns:
        OrderedDict[str, Tensor]: names without the ``module.`` that a saved DistributedDataParallel leaves.

    Raises:
        CheckpointError: no tensors there; names the keys that there are.
    """
    if ema:
        searched, places = "averaged weights under 'model_ema'", [checkpoint.get('model_ema')]
    else:
        searched = "weights under 'state_dict', under 'model' or at its top level"
        places = [checkpoint.get('state_dict'), checkpoint.get('model'), checkpoint]
    for place in places:
        if isinstance(place, dict) and place and all(isinstance(value, Tensor) for value in place.values()):
            state_dict = OrderedDict((name.removeprefix('module.'), value) for name, value in place.items())
            # the versions of its modules, which some of them need to read an old file
            state_dict._metadata = getattr(place, '_metadata', OrderedDict())
            return state_dict
    raise CheckpointError(f'{filename} holds no {searched}; its keys are: {listing(checkpoint)}')


def load_pretrained(module, filename, prefix='', ema=False):
    """Loads the weights of a file into a module that is to be trained, a backbone for instance.

    Args:
        module (nn.Module): receives the weights; what a backbone does not find in a classifier's file stays as it is.
        filename (str): local file or URL, of any layout that ``names_in`` knows.
        prefix (str): take only the tensors under this name, for instance ``'neck.'`` of a detector's checkpoint. A
            backbone finds ``'backbone.'`` by itself.
        ema (bool): take the averaged weights of the file.

    Raises:
        CheckpointError: the file is refused, has nothing under ``prefix``, or does not fit. The module is unchanged.
    """
    state_dict = unwrap_state_dict(read_checkpoint(filename), filename, ema)
    if prefix:
        names, metadata = list(state_dict), state_dict._metadata
        state_dict = _below(state_dict, prefix)
        state_dict._metadata = _below(metadata, prefix)
        if not state_dict:
            raise CheckpointError(
                f"{filename} has no tensor whose name starts with '{prefix}'; it has: {listing(names)}"
            )
    found = _match(module, state_dict, filename)
    if found.misshapen:
        raise CheckpointError(f'{filename} does not fit: size mismatch for {listing(found.misshapen)}')
    if not found.taken:
        raise CheckpointError(f'{filename} holds no tensor of {type(module).__name__}; it has: {listing(state_dict)}')
    _load(module, found)
    print_log(f'{filename} -> {type(module).__name__}: {found.report()}', logger='current')


def check_fits(model, state_dict, filename, least=1.0):
    """Loads what fits, or refuses weights that fit too little of a model; then the model is unchanged.

    Args:
        model (nn.Module): built model, bare or wrapped (distributed, test-time augmentation).
        state_dict (dict[str, Tensor]): from ``unwrap_state_dict``, of any layout that ``names_in`` knows.
        filename (str): only named in messages.
        least (float): share of the model's tensors that must be in the file with the right shape: 1 to test or to
            resume, less to fine-tune.

    Raises:
        CheckpointError: fewer fit; lists names and shapes.
    """
    model = unwrap_model(model)
    found = _match(model, state_dict, filename)
    # a counter that old BatchNorm files lack and that changes no result: mmengine ignores it too
    total = sum(not name.endswith('num_batches_tracked') for name in model.state_dict())
    loaded = sum(not name.endswith('num_batches_tracked') for name in found.taken)

    if loaded < max(1, least * total):
        required = 'all' if least == 1 else f'at least {least:.0%}'
        raise CheckpointError(
            f'{filename} does not fit the model of this config: it has {loaded} of the {total} tensors of the model, '
            f'{required} must be there; {found.differences(most=10)}'
        )
    _load(model, found)
    print_log(f'{filename} -> {type(model).__name__}: {found.report()}', logger='current')
    if differences := found.differences():
        print_log(
            f'{filename} has {loaded} of the {total} tensors of the model; {differences}',
            logger='current',
            level=logging.WARNING,
        )


def unwrap_model(model):
    """The model inside wrappers for distribution and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


# Finding and reading the file


def _local_path(filename):
    scheme = urlparse(filename).scheme if '://' in filename else ''
    if scheme in ('http', 'https'):
        return _download(filename)
    if scheme == 'hf':
        return _download_from_hub(filename)
    if scheme:
        raise CheckpointError(
            f'{filename} is neither a local file nor an http(s):// or hf:// URL: download it and give the path'
        )
    path = Path(filename).expanduser()
    if not path.exists():
        raise CheckpointError(f'checkpoint {filename} does not exist')
    if not path.is_file():
        raise CheckpointError(f'checkpoint {filename} is not a file')
    return path


def _download(url):
    """Downloads with one process per machine; every rank must call it."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    try:
        if not path.exists() and os.environ.get('LOCAL_RANK', '0') == '0':
            path.parent.mkdir(parents=True, exist_ok=True)
            print_log(f'Downloading {url} to {path}', logger='current')
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except (URLError, OSError) as error:
        raise CheckpointError(
            f'{url} cannot be downloaded ({error}): get it by other means and give its path'
        ) from error
    barrier()
    return path


def _download_from_hub(url):
    """hf://OWNER/REPOSITORY[@REVISION]/FILE; the hub's client caches, and locks against other processes."""
    if find_spec('huggingface_hub') is None:
        raise CheckpointError(
            f'{url} needs huggingface_hub, which is not installed: pip install huggingface_hub, or download the file '
            'and give its path'
        )
    parts = re.fullmatch(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)', url)
    if parts is None:
        raise CheckpointError(f'{url} does not name a file of the hub: write hf://OWNER/REPOSITORY/FILE')
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(parts[1], parts[3], revision=parts[2]))
    except Exception as error:  # of the hub, of its HTTP client, of the file system
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f'{url} cannot be downloaded ({reason}): get it by other means and give its path'
        ) from error


# Comparing the file with a model, and loading


def _match(model, state_dict, filename):
    try:
        return match(model, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f'{filename}: {error}') from error


def _load(model, found):
    tensors = OrderedDict(found.taken)
    tensors._metadata = model.state_dict()._metadata  # they are what the present versions of the modules expect
    model.load_state_dict(tensors, strict=False)


def _below(entries, prefix):
    return OrderedDict((name[len(prefix) :], value) for name, value in entries.items() if name.startswith(prefix))
