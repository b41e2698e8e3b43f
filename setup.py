"""What pyproject.toml cannot say: the native scan, and the files that mim expects inside the package."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError

NATIVE = 'mmvmamba/ops/native'

# No -ffast-math: rounding and NaN handling are meant as written. No contraction: fused operations are explicit.
FLAGS = ['-std=c11', '-O3', '-g0', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=off', '-fvisibility=hidden']


def mim_files():
    """Configs, tools and the model index, which mim looks up in mmvmamba/.mim of an installed package."""
    found = [Path('model-index.yml'), *sorted(Path('configs').rglob('*')), *sorted(Path('tools').rglob('*'))]
    return [str(path) for path in found if path.is_file() and '__pycache__' not in path.parts]


class BuildPy(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            for path in mim_files():
                target = Path(self.build_lib, 'mmvmamba', '.mim', path)
                self.mkpath(str(target.parent))
                self.copy_file(path, str(target))

    def get_source_files(self):
        return [*super().get_source_files(), *mim_files()]  # what a source distribution takes along


class BuildExt(build_ext):
    def get_ext_filename(self, fullname):
        return fullname.replace('.', '/') + '.so'  # loaded with ctypes: not tied to a Python version

    def build_extension(self, ext):
        try:
            ext.extra_compile_args, ext.extra_link_args = [*FLAGS, '-fopenmp'], ['-fopenmp']
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = FLAGS, []  # a compiler without OpenMP: one thread
            super().build_extension(ext)


class BdistWheel(bdist_wheel):
    def get_tag(self):
        return 'py3', 'none', super().get_tag()[2]


# optional: without a working compiler the package installs all the same, and the blocked PyTorch scan takes over.
scan = Extension(
    'mmvmamba.ops.native._scan',
    sources=sorted(map(str, Path(NATIVE).glob('*.c'))),
    depends=sorted(map(str, Path(NATIVE).glob('*.h'))),
    optional=True,
)

setup(ext_modules=[scan], cmdclass=dict(build_py=BuildPy, build_ext=BuildExt, bdist_wheel=BdistWheel))
