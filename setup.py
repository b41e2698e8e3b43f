"""Build steps that pyproject.toml cannot express: the native scan, and the files that mim expects in the package."""

import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError

KERNELS, ONNXRUNTIME = 'mmvmamba/ops/native', 'mmvmamba/export/native'

# No -ffast-math: the code relies on exact rounding and NaN handling. No contraction: fused operations are explicit.
FLAGS = ['-std=c11', '-O3', '-g0', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=off', '-fvisibility=hidden']

# Additional flags of single files on x86-64. dispatch.c checks at run time that the processor supports them.
INSTRUCTION_SETS = {
    'variant_avx2.c': ['-mavx2', '-mfma'],
    'variant_avx512.c': ['-mavx512f', '-mavx512dq', '-mavx512bw', '-mavx512vl', '-mavx2', '-mfma'],
}

# Tools that only work in a checkout of the repository.
OF_A_CHECKOUT = (
    'tools/build_wheel.sh',
    'tools/check_gpu.sh',
    'tools/demo.sh',
    'tools/setup_classic.sh',
    'tools/setup_venv.sh',
)


def mim_files():
    """Lists configs, tools, demos and the model index, which mim reads from mmvmamba/.mim of an installed package."""
    found = sorted(path for folder in ('configs', 'demo', 'tools') for path in Path(folder).rglob('*'))
    files = [str(path) for path in found if path.is_file() and '__pycache__' not in path.parts]
    return ['model-index.yml', *(path for path in files if path not in OF_A_CHECKOUT)]


class BuildPy(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            for path in mim_files():
                target = Path(self.build_lib, 'mmvmamba', '.mim', path)
                self.mkpath(str(target.parent))
                self.copy_file(path, str(target))

    def get_source_files(self):
        return [*super().get_source_files(), *mim_files()]  # included in the source distribution


class BuildExt(build_ext):
    def get_ext_filename(self, fullname):
        return fullname.replace('.', '/') + '.so'  # loaded with ctypes, so it does not depend on the Python version

    def build_extension(self, ext):
        if ext is onnxruntime_ops:
            self.compile_and_link(ext, [])  # uses the threads of onnxruntime
            return
        try:
            self.compile_and_link(ext, ['-fopenmp'])
        except (CompileError, LinkError):
            self.compile_and_link(ext, [])  # compiler without OpenMP: single-threaded kernels

    def compile_and_link(self, ext, openmp):
        """Like build_ext, but with flags per file and without checking timestamps, because compiling takes seconds."""
        objects = []
        for source in ext.sources:
            own = INSTRUCTION_SETS.get(Path(source).name, []) if self.plat_name.endswith('x86_64') else []
            objects += self.compiler.compile(
                [source],
                output_dir=f'{self.build_temp}/{ext.name}',
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=[*FLAGS, *own, *(openmp or ['-Wno-unknown-pragmas'])],
                depends=ext.depends,
            )
        # Code from GCC uses the OpenMP runtime bundled with torch, whatever its file name, which library.py loads. Code
        # from Clang requires Clang's own runtime.
        version = subprocess.run([*self.compiler.compiler_so, '--version'], capture_output=True, text=True).stdout
        libraries = openmp if 'clang' in version else []
        path = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(
            objects, path, extra_postargs=libraries, build_temp=self.build_temp, target_lang='c'
        )


class BdistWheel(bdist_wheel):
    def get_tag(self):
        return 'py3', 'none', super().get_tag()[2]


def files(pattern, *folders):
    return sorted(str(path) for folder in folders for path in Path(folder).glob(pattern))


# optional: without a working compiler, the package is still installed and uses the chunked PyTorch scan.
scan = Extension(
    'mmvmamba.ops.native._scan',
    sources=files('*.c', KERNELS),
    depends=files('*.[hi]*', KERNELS),  # .h and .inc
    optional=True,
)

# The operators for onnxruntime contain the kernels, so that they also work without Python and OpenMP. The operators for
# OpenVINO call these kernels.
onnxruntime_ops = Extension(
    'mmvmamba.export.native.onnxruntime_ops',
    sources=files('*.c', KERNELS, ONNXRUNTIME),
    depends=files('*.[hi]*', KERNELS, ONNXRUNTIME),
    include_dirs=[KERNELS],
    optional=True,
)

setup(ext_modules=[scan, onnxruntime_ops], cmdclass=dict(build_py=BuildPy, build_ext=BuildExt, bdist_wheel=BdistWheel))
