"""Compares the declarations of onnxruntime's binary interface with its header.

The wheel of onnxruntime contains no header: set ONNXRUNTIME_INCLUDE to the folder of onnxruntime_c_api.h of any release
from 1.17 on. All other tests of the operators run the functions of the installed onnxruntime.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmvmamba import export

INCLUDE = os.environ.get('ONNXRUNTIME_INCLUDE')
ABI = Path(export.__file__).with_name('native') / 'ort_abi.h'
DEMO_ABI = Path(__file__).with_name('onnxruntime_c_api.h')

pytestmark = pytest.mark.skipif(not (INCLUDE and shutil.which('gcc')), reason='needs gcc and ONNXRUNTIME_INCLUDE')


def compile_assertions(lines, tmp_path):
    source = tmp_path / 'assertions.c'
    source.write_text('\n'.join(['#include <stddef.h>', '#include "onnxruntime_c_api.h"', *lines]))
    subprocess.run(['gcc', '-I', INCLUDE, '-c', source, '-o', tmp_path / 'assertions.o'], check=True)


def equal(left, right):
    return f'_Static_assert({left} == {right}, "{left}");'.replace('\n', ' ')


def test_functions_and_constants_of_the_operators_are_those_of_onnxruntime(tmp_path):
    text = ABI.read_text()
    functions = re.findall(r'FUNCTION\((\d+), (?:OrtStatus \*|void), (\w+),', text)
    assert len(functions) == text.count('FUNCTION(')
    lines = [equal(f'offsetof(OrtApi, {name})', f'{index} * sizeof(void *)') for index, name in functions]
    lines += [
        equal(name, value)
        for name, value in dict(
            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT=1,
            ORT_FAIL=1,
            ORT_INVALID_ARGUMENT=2,
            INPUT_OUTPUT_REQUIRED=0,
            INPUT_OUTPUT_OPTIONAL=1,
            OrtMemTypeDefault=0,
        ).items()
    ]
    compile_assertions(lines, tmp_path)


def test_operator_struct_has_the_fields_of_onnxruntime_in_the_same_order(tmp_path):
    fields = re.findall(r'\(\*(\w+)\)', ABI.read_text().partition('struct OrtCustomOp {')[2])
    assert len(fields) == 21
    lines = [
        equal(f'offsetof(OrtCustomOp, {name})', f'{place} * sizeof(void *)') for place, name in enumerate(fields, 1)
    ]
    compile_assertions(lines, tmp_path)


def test_functions_of_the_demo_are_those_of_onnxruntime(tmp_path):
    names = re.findall(r'\(\*(\w+)\)\(', DEMO_ABI.read_text().partition('} OrtApi;')[0])
    places = f'#include <stdio.h>\n#include <stddef.h>\n#include "{DEMO_ABI}"\nint main(void) {{\n'
    places += ''.join(f'printf("%zu ", offsetof(OrtApi, {name}));' for name in names) + '}'
    (tmp_path / 'places.c').write_text(places)
    subprocess.run(['gcc', tmp_path / 'places.c', '-o', tmp_path / 'places'], check=True)
    offsets = subprocess.run(tmp_path / 'places', capture_output=True, text=True, check=True).stdout.split()
    compile_assertions(
        [equal(f'offsetof(OrtApi, {name})', offset) for name, offset in zip(names, offsets, strict=True)], tmp_path
    )
