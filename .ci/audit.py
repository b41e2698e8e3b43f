"""Checks all packages in the lock files for known vulnerabilities, for each supported Python: `make audit`.

pip-audit queries PyPI. If PyPI does not answer, pip-audit reports the package as skipped but still exits with status 0,
so every package would pass without network access. This script distinguishes skipped packages from safe ones.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ('3.10', '3.11', '3.12')


def locked(path):
    """Returns the requirements in a lock file."""
    return [Requirement(line) for line in re.findall(r'^(\w.*?) \\$', path.read_text(), re.M)]


def applies(requirement, python):
    environment = {'python_version': python, 'python_full_version': f'{python}.0', 'sys_platform': 'linux'}
    environment |= {'platform_machine': 'x86_64'}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def rounds(paths):
    """Splits all pins into lists for pip-audit, which accepts only one version of a package per run."""
    versions = {}
    for requirement in (requirement for path in paths for requirement in locked(path)):
        if any(applies(requirement, python) for python in PYTHONS):
            versions.setdefault(requirement.name, set()).add(str(requirement.specifier))
    pins = [sorted(name + version for version in found) for name, found in sorted(versions.items())]
    return [[pin for pin in pins if pin] for pins in zip_longest(*pins)]


def ask(pins):
    """Runs pip-audit and returns its report for each package."""
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
        file.write('\n'.join(pins))
        file.flush()
        command = [sys.executable, '-m', 'pip_audit', '--no-deps', '--disable-pip', '--requirement', file.name]
        done = subprocess.run(
            [*command, '--vulnerability-service', 'pypi', '--progress-spinner', 'off', '--format', 'json'],
            capture_output=True,
            text=True,
        )
    if done.stdout.startswith('{'):
        return json.loads(done.stdout)['dependencies']
    reason = (done.stderr.strip().splitlines() or ['pip-audit printed nothing'])[-1]
    return [dict(name=pin.partition('==')[0], skip_reason=reason) for pin in pins]


def judge(packages, require_answer):
    """Returns the lines to print and the exit status.

    The status is 1 for a known vulnerability and, with `require_answer`, for a package that could not be audited.
    """
    lines = [
        f'{package["name"]} {package["version"]}: {found["id"]}, '
        f'fixed in {", ".join(found["fix_versions"]) or "no release"}'
        for package in packages
        for found in package.get('vulns', [])
    ]
    skipped = [package for package in packages if 'skip_reason' in package]
    known = len(packages) - len(skipped)
    status = int(bool(lines) or bool(skipped) and require_answer)
    lines.append(f'{len(lines)} known vulnerabilities in {known} packages.')
    if skipped:
        names = 'all' if not known else ', '.join(package['name'] for package in skipped)
        lines.append(
            f'NOT AUDITED: {len(skipped)} packages ({names}). PyPI gave no answer: {skipped[0]["skip_reason"]}. '
            'Run `make audit` again with access to pypi.org.'
        )
    return lines, status


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--require-answer', action='store_true', help='fail if a package could not be audited')
    arguments = parser.parse_args()
    paths = [path for folder in ('.', 'docs', 'tests', '.ci') for path in sorted(ROOT.joinpath(folder).glob('*.lock'))]
    lines, status = judge([package for pins in rounds(paths) for package in ask(pins)], arguments.require_answer)
    print(*lines, sep='\n')
    return status


if __name__ == '__main__':
    sys.exit(main())
