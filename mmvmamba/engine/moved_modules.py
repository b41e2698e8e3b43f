"""Import paths of hooks before they moved to `hooks/`. Configs in work dirs and checkpoints contain them."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    'seeding': 'seed_by_position',
    'finite_loss_hook': 'finite_loss',
    'unused_parameters_hook': 'unused_parameters',
    'resume_report_hook': 'resume_report',
    'stale_checkpoints_hook': 'stale_checkpoints',
    'place_hook': 'official_checkpoint',
    'data_check_hook': 'dataset_check',
}


class MovedModules(MetaPathFinder, Loader):
    """Gives a module with an old path the content of the new one."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None):
        package, _, name = fullname.rpartition('.')
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The default module."""

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(f'.hooks.{MOVED[module.__name__.rpartition(".")[2]]}', __package__)
        vars(module).update({name: value for name, value in vars(new).items() if not name.startswith('__')})


def install_moved_modules() -> None:
    sys.meta_path.append(MovedModules())
