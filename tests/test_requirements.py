"""Tests the lock files (pins, hashes, supported Python versions) and their audit."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKED = {  # lock file: Python versions
    'requirements': ('3.10', '3.11', '3.12'),
    'docker/requirements': ('3.12',),
    'docs/requirements': ('3.11', '3.12'),
    'tests/requirements_peft': ('3.10', '3.11', '3.12'),
    '.ci/requirements_audit': ('3.10', '3.11', '3.12'),
    '.ci/requirements_wheel': ('3.10', '3.11', '3.12'),
}
CASES = [(name, python) for name, pythons in LOCKED.items() for python in pythons]


def entries(name):
    """Returns the entries of a lock file: requirement, hashes and comments."""
    text = ROOT.joinpath(f'{name}.lock').read_text()
    return re.findall(r'^\w.*\n(?: +.*\n)+', text, re.M)


def versions(requirements, python):
    """Returns the name and version of the entries that apply to Linux with this Python."""
    environment = {'python_version': python, 'python_full_version': f'{python}.0', 'sys_platform': 'linux'}
    environment |= {'platform_machine': 'x86_64'}
    found = [Requirement(line) for line in requirements]
    found = [each for each in found if each.marker is None or each.marker.evaluate(environment)]
    assert len({each.name for each in found}) == len(found), f'a package has two versions on Python {python}'
    return {each.name: str(each.specifier) for each in found}


def pins(name, python):
    lines = (line.partition('#')[0].strip() for line in ROOT.joinpath(f'{name}.txt').read_text().splitlines())
    return versions(filter(None, lines), python)


def locked(name, python):
    return versions([entry.partition('\\')[0] for entry in entries(name)], python)


def test_every_lock_file_is_tested():
    found = {
        path.relative_to(ROOT).with_suffix('')
        for f in ('.', 'docker', 'docs', 'tests', '.ci')
        for path in ROOT.glob(f'{f}/*.lock')
    }
    assert found == {Path(name) for name in LOCKED}


@pytest.mark.parametrize('name, python', CASES)
def test_lock_file_matches_the_pins(name, python):
    """If this fails after changing a pin, run `make lock`."""
    wanted = pins(name, python)
    assert wanted
    assert all(re.fullmatch(r'==[\w.]+', version) for version in wanted.values())
    assert {package: locked(name, python).get(package) for package in wanted} == wanted


@pytest.mark.parametrize('name', LOCKED)
def test_lock_file_was_made_from_these_requirements(name):
    """A package removed from the requirements must no longer be marked as required by them."""
    direct = {Requirement(e.partition('\\')[0]).name for e in entries(name) if f'-r {name}.txt' in e}
    assert direct == {package for python in LOCKED[name] for package in pins(name, python)}


@pytest.mark.parametrize('name', LOCKED)
def test_every_locked_package_has_hashes(name):
    """The lock file also names no index, which would tie it to one machine."""
    assert entries(name)
    assert all(re.search(r'^ +--hash=sha256:[0-9a-f]{64}', entry, re.M) for entry in entries(name))
    options = [line for line in ROOT.joinpath(f'{name}.lock').read_text().splitlines() if line.startswith('-')]
    assert not options


@pytest.mark.parametrize('python', LOCKED['requirements'])
def test_packages_without_wheels_are_in_the_lock_file(python):
    """tools/setup_venv.sh installs these packages last; it would silently ignore an unknown name."""
    script = ROOT.joinpath('tools/setup_venv.sh').read_text()
    late = re.search(r'^source_only=\((.*)\)', script, re.M)[1].split()
    tools = re.search(r'entries build_tools.txt (.*)\)"', script)[1].split()
    assert set(late) | set(tools) <= set(locked('requirements', python))


def test_image_of_the_service_has_the_versions_of_the_development_environment():
    wanted, found = pins('requirements', '3.12'), pins('docker/requirements', '3.12')
    assert {'fastapi', 'onnxruntime', 'opencv-python-headless'} <= set(found)
    assert found == {package: wanted.get(package, locked('requirements', '3.12')[package]) for package in found}


@pytest.fixture
def audit(monkeypatch):
    spec = spec_from_file_location('audit', ROOT / '.ci/audit.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAFE = dict(name='safe', version='1.0', vulns=[])
VULNERABLE = dict(name='old', version='1.0', vulns=[dict(id='PYSEC-2026-1', fix_versions=['1.1'])])
SKIPPED = dict(name='secret', skip_reason='Dependency not found on PyPI')


@pytest.mark.parametrize(
    'packages, status, status_if_required, text',
    [
        ([SAFE], 0, 0, '0 known vulnerabilities in 1 packages'),
        ([SAFE, VULNERABLE], 1, 1, 'old 1.0: PYSEC-2026-1, fixed in 1.1'),
        ([SKIPPED], 0, 1, 'NOT AUDITED: 1 packages (all). PyPI gave no answer: Dependency not found on PyPI'),
        ([SAFE, SKIPPED], 0, 1, 'NOT AUDITED: 1 packages (secret)'),
        ([VULNERABLE, SKIPPED], 1, 1, 'NOT AUDITED'),
    ],
)
def test_audit_reports(audit, packages, status, status_if_required, text):
    assert audit.judge(packages, require_answer=False)[1] == status
    lines, found = audit.judge(packages, require_answer=True)
    assert found == status_if_required
    assert text in '\n'.join(lines)


def test_audit_covers_every_version(audit):
    """pip-audit rejects two versions of a package in one call, so they are passed in separate calls."""
    paths = [ROOT / f'{name}.lock' for name in LOCKED]
    calls = audit.rounds(paths)
    for call in calls:
        assert len({pin.partition('==')[0] for pin in call}) == len(call)
    wanted = {package + version for name, python in CASES for package, version in locked(name, python).items()}
    assert {pin for call in calls for pin in call} == wanted


def test_audit_reports_a_failure_of_pip_audit(audit, monkeypatch):
    """If pip-audit fails for any reason, no package counts as audited."""
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    packages = audit.ask(['numpy==2.2.6'])
    assert [package['name'] for package in packages] == ['numpy']
    assert audit.judge(packages, require_answer=True)[1] == 1
