"""Locates the local file of a checkpoint: paths, downloads, the Hugging Face hub."""

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
    """Returns the local file for a path, an http(s):// URL or an hf:// name, and downloads it if necessary.

    Raises:
        CheckpointError: the file does not exist, or cannot be downloaded.
    """
    try:
        url = urlsplit(filename if '://' in filename else '')
        if url.scheme in ('http', 'https'):
            return _download(filename, url)
        if url.scheme == 'hf':
            return _download_from_hub(filename)
        if url.scheme:
            raise CheckpointError(
                f'{filename} is neither a local file nor an http(s):// or hf:// URL: download it and pass its path'
            )
        path = Path(filename).expanduser()
        if not path.exists():
            raise CheckpointError(f'checkpoint {filename} does not exist')
        if not path.is_file():
            raise CheckpointError(f'checkpoint {filename} is not a file')
        return path
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, an unknown user, an invalid URL
        raise CheckpointError(
            f'checkpoint {filename[:200]!r} is not a valid path or URL ({error}): correct it'
        ) from error


def is_download(path: Path) -> bool:
    """Whether the file was downloaded by this module, so that it can be downloaded again."""
    return _downloads() in path.parents


def _downloads() -> Path:
    return Path(torch.hub.get_dir(), 'checkpoints', 'mmvmamba')


def _download(filename: str, url: SplitResult) -> Path:
    """Downloads a URL in one process per machine; every rank must call this function."""
    # different URLs may end in the same name; the hash includes the query
    path = _downloads() / hashlib.sha256(filename.encode()).hexdigest()[:16] / (Path(url.path).name or 'checkpoint')
    try:
        if not path.exists() and os.environ.get('LOCAL_RANK', '0') == '0':
            path.parent.mkdir(parents=True, exist_ok=True)
            print_log(f'Downloading {filename} to {path}', logger='current')
            torch.hub.download_url_to_file(filename, str(path), progress=False)  # renames the complete file
    except (URLError, OSError) as error:
        raise CheckpointError(
            f'{filename} cannot be downloaded ({error}): download it on another machine and pass its path'
        ) from error
    barrier()
    return path


def _download_from_hub(url: str) -> Path:
    """Downloads hf://OWNER/REPOSITORY[@REVISION]/FILE; the client of the hub caches files and locks its cache."""
    if find_spec('huggingface_hub') is None:
        raise CheckpointError(
            f'{url} needs huggingface_hub, which is not installed: pip install huggingface_hub, or download the file '
            'and pass its path'
        )
    parts = re.fullmatch(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)', url)
    if parts is None:
        raise CheckpointError(f'{url} is not a file of the hub: write hf://OWNER/REPOSITORY/FILE')
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(parts[1], parts[3], revision=parts[2]))
    except Exception as error:  # the hub, its HTTP client or the file system can raise any error
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f'{url} cannot be downloaded ({reason}): download it on another machine and pass its path'
        ) from error
