"""From the name of a checkpoint to a local file: paths, downloads, the hub."""

import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.parse import SplitResult, urlsplit

import torch
from mmengine.dist import barrier
from mmengine.logging import print_log

from .errors import CheckpointError


def local_path(filename: str) -> Path:
    """The file that this path, http(s):// URL or hf:// name stands for, downloaded if need be.

    Raises:
        CheckpointError: it does not exist, or cannot be downloaded.
    """
    try:
        url = urlsplit(filename if '://' in filename else '')
        if url.scheme in ('http', 'https'):
            return _download(filename, url)
        if url.scheme == 'hf':
            return _download_from_hub(filename)
        if url.scheme:
            raise CheckpointError(
                f'{filename} is neither a local file nor an http(s):// or hf:// URL: download it and give the path'
            )
        path = Path(filename).expanduser()
        if not path.exists():
            raise CheckpointError(f'checkpoint {filename} does not exist')
        if not path.is_file():
            raise CheckpointError(f'checkpoint {filename} is not a file')
        return path
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, no URL at all
        raise CheckpointError(
            f'checkpoint {filename[:200]!r} cannot be looked up ({error}): correct its name'
        ) from error


def is_download(path: Path) -> bool:
    """Whether the file lies in the folder of downloads, from where it can be had again."""
    return _downloads() in path.parents


def _downloads() -> Path:
    return Path(torch.hub.get_dir(), 'checkpoints', 'mmvmamba')


def _download(filename: str, url: SplitResult) -> Path:
    """Downloads with one process per machine; every rank must call it."""
    # two URLs may end in one name; the query is part of what a URL stands for
    path = _downloads() / hashlib.sha256(filename.encode()).hexdigest()[:16] / (Path(url.path).name or 'checkpoint')
    try:
        if not path.exists() and os.environ.get('LOCAL_RANK', '0') == '0':
            path.parent.mkdir(parents=True, exist_ok=True)
            print_log(f'Downloading {filename} to {path}', logger='current')
            torch.hub.download_url_to_file(filename, str(path), progress=False)  # moved there when all has come
    except (URLError, OSError) as error:
        raise CheckpointError(
            f'{filename} cannot be downloaded ({error}): get it by other means and give its path'
        ) from error
    barrier()
    return path


def _download_from_hub(url: str) -> Path:
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
