"""Tests that the names of hooks in configs of earlier versions still work."""

import subprocess
import sys

import pytest
from mmengine.registry import HOOKS

from mmvmamba.engine.moved_modules import MOVED

OLD_NAMES = {
    'mmvmamba.engine.seeding.SeedByPositionHook': 'SeedByPositionHook',
    'mmvmamba.engine.finite_loss_hook.FiniteLossHook': 'FiniteLossHook',
    'mmvmamba.engine.unused_parameters_hook.UnusedParametersHook': 'UnusedParametersHook',
    'mmvmamba.engine.resume_report_hook.ResumeReportHook': 'ResumeReportHook',
    'mmvmamba.engine.stale_checkpoints_hook.StaleCheckpointsHook': 'StaleCheckpointsHook',
    'mmvmamba.engine.place_hook.PlaceOfficialNamesHook': 'OfficialCheckpointHook',
    'mmvmamba.engine.data_check_hook.DataCheckHook': 'DatasetCheckHook',
}


@pytest.mark.parametrize('old', OLD_NAMES)
def test_old_paths_build_the_hook(old):
    assert {name.split('.')[2] for name in OLD_NAMES} == set(MOVED)
    hook = HOOKS.build(dict(type=old))
    assert type(hook).__name__ == OLD_NAMES[old]
    assert type(hook) is HOOKS.get(type(hook).__name__)  # one class, registered once


def test_old_registered_names_build_the_hook():
    import mmvmamba.engine.hooks.dataset_check
    import mmvmamba.engine.hooks.official_checkpoint  # noqa: F401

    assert HOOKS.get('PlaceOfficialNamesHook') is HOOKS.get('OfficialCheckpointHook') is not None
    assert HOOKS.get('DataCheckHook') is HOOKS.get('DatasetCheckHook') is not None


def test_an_old_path_in_custom_imports_registers_the_hook():
    code = 'import mmvmamba, importlib; importlib.import_module("mmvmamba.engine.place_hook")\n'
    code += 'from mmengine.registry import HOOKS; assert HOOKS.get("PlaceOfficialNamesHook") is not None'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_importing_the_package_imports_no_hook():
    """mmengine.hooks needs OpenCV."""
    code = 'import sys, mmvmamba; assert not [name for name in sys.modules if name.startswith("mmvmamba.engine.hooks")]'
    subprocess.run([sys.executable, '-c', code], check=True)
