"""From a fitted model in a notebook to a verified, gated, served version and back.

`deploy_ext.register(model, "flights", X, y)` and the other names in `__all__` are the functions of `deploy_ext.verbs`
(and `Secret`, for the parameters of a notebook), imported when first asked for, so that `import deploy_ext` and `%load_ext deploy_ext` cost nothing. Some rooms have the
name of a verb: `deploy_ext.report` is always the verb, `from deploy_ext.report import fill` reaches into the room.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy_ext.secret import Secret
    from deploy_ext.verbs import (
        cases,
        doctor,
        down,
        drift,
        explain,
        fit,
        gates,
        history,
        init,
        journal,
        journal_forget,
        key_create,
        key_list,
        key_revoke,
        metrics,
        predict,
        promote,
        register,
        report,
        retrain,
        rollback,
        status,
        up,
        validate,
    )

__version__ = "0.1.0"
__all__ = (
    "Secret",
    "fit",
    "register",
    "validate",
    "promote",
    "up",
    "down",
    "status",
    "predict",
    "rollback",
    "retrain",
    "init",
    "history",
    "report",
    "doctor",
    "gates",
    "cases",
    "explain",
    "journal",
    "journal_forget",
    "metrics",
    "drift",
    "key_create",
    "key_list",
    "key_revoke",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'deploy_ext' has no attribute '{name}'")
    return getattr(importlib.import_module("deploy_ext.secret" if name == "Secret" else "deploy_ext.verbs"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext deploy_ext` calls: adds `%deploy` and `%%deploy` to the `shell`."""
    importlib.import_module("deploy_ext.magics").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext deploy_ext` calls: takes them away again."""
    importlib.import_module("deploy_ext.magics").unload(shell)


class _Package(ModuleType):
    """Python binds a submodule to its package when it is imported; here that must not hide the verb of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
