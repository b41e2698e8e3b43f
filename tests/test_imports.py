"""Tests that imports between the packages of mmvmamba follow the dependency diagram and contain no cycle."""

import ast
import html
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from mmvmamba import ops

PACKAGE = Path(__file__).parents[1] / 'mmvmamba'
DOCS = PACKAGE.parent / 'docs'

# Each package, and the other packages that it may import.
ROOMS = {
    'checkpoint': set(),
    'ops': set(),
    'memory': {'ops'},
    'models': {'checkpoint', 'memory', 'ops'},
    'conversion': {'checkpoint', 'models'},
    'analysis': {'checkpoint', 'engine', 'memory', 'models', 'ops'},
    'engine': {'checkpoint', 'ops'},
    'export': {'ops'},
    '__init__': {'engine', 'models', 'ops'},
    '__main__': {'__init__', 'ops'},
}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if len(parts) > 1 and parts[-1] == '__init__' else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts}


def imported(name):
    """Yields the modules of mmvmamba that a module imports, at any level of nesting."""
    path = FILES[name]
    home = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = home[: len(home) - node.level + 1]
            target = '.'.join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f'{target}.{alias.name}'.lstrip('.')
                yield inner if inner in FILES else target or '__init__'
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not [name for name in names if name.split('.')[0] == 'mmvmamba'], f'{name}: relative imports only'


def test_packages_import_only_allowed_packages():
    assert {name.split('.')[0] for name in FILES} == set(ROOMS)
    for name in FILES:
        room = name.split('.')[0]
        up = {target for target in imported(name) if target.split('.')[0] not in {room, *ROOMS[room]}}
        assert not up, f'{name} looks up to {up}'


def edges(dot):
    return set(re.findall(r'(\w+) ?-> ?(\w+)', dot))


def test_diagram_shows_every_dependency():
    """Compares the diagram in docs/design.md with the imports. The root module may import every package."""
    drawn = edges((DOCS / 'packages.dot').read_text())
    found = {(name.split('.')[0], target.split('.')[0]) for name in FILES for target in imported(name)}
    between = {(a, b) for a, b in found if a != b and '__init__' not in (a, b)}
    assert between == {(a, b) for a, b in drawn if a in ROOMS and b in ROOMS}


def test_picture_of_the_diagram_has_the_edges_of_its_source():
    assert edges(html.unescape((DOCS / 'packages.svg').read_text())) == edges((DOCS / 'packages.dot').read_text())


# Other libraries that ops imports. Triton and mamba-ssm are optional, so only the files of their backends import them.
TRITON_FILES = {'ops.scan.triton_launch', 'ops.conv.triton_launch'}
LIBRARIES_OF_OPS = {
    'triton': {name for name in FILES if name.startswith('ops.triton_kernels')} | TRITON_FILES,
    'mamba_ssm': {'ops.scan.mamba_ssm_backend'},
}


def test_ops_imports_only_torch_and_the_standard_library():
    for name, path in FILES.items():
        if name.split('.')[0] != 'ops':
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        libraries = {module.split('.')[0] for module in modules} - sys.stdlib_module_names - {'torch'}
        assert not {library for library in libraries if name not in LIBRARIES_OF_OPS.get(library, ())}, name


def test_modules_of_ops_shadow_neither_a_public_function_nor_a_library():
    modules = {part for name in FILES if name.startswith('ops.') for part in name.split('.')}
    assert not modules & {*ops.__all__, 'torch', 'triton', 'mamba_ssm'}


def test_every_import_of_ops_needs_only_torch():
    """Imports all of ops with every other installed library hidden, below a package that imports nothing."""
    code = f"""
import sys, types
package = types.ModuleType('mmvmamba')
package.__path__ = [{str(PACKAGE)!r}]
sys.modules['mmvmamba'] = package
for library in ('mmengine', 'mmcv', 'einops', 'numpy', 'triton', 'mamba_ssm'):
    sys.modules[library] = None
import torch
from mmvmamba import ops
x = torch.randn(1, 2, 3, 4)
print(*ops.conv_silu_2d(x, torch.randn(4, 1, 3, 3)).shape)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '1 2 3 4\n', done.stderr


def test_imports_have_no_cycle():
    list(TopologicalSorter({name: set(imported(name)) - {name} for name in FILES}).static_order())
