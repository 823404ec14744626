"""Parts that are found by their file: one module in a package is one part, named after it."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lorakit.errors import UsageError


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint, "; did you mean 'x'?", or "", for the end of an error."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class Registry:
    """The parts of one package. Names come from the folder, modules are imported when asked for."""

    def __init__(self, package: str, kind: str) -> None:
        self.package, self.kind = package, kind
        self._asked: dict[str, ModuleType] = {}  # the folder is listed once for each name, not once a picture

    def _folders(self) -> list[str]:
        spec = importlib.util.find_spec(self.package)
        return list((spec and spec.submodule_search_locations) or ())

    def names(self) -> list[str]:
        """File names with dashes for underscores, sorted; imports neither the package nor its parts."""
        found = pkgutil.iter_modules(self._folders())
        return sorted(part.name.replace("_", "-") for part in found if part.name[0] != "_" and not part.ispkg)

    def stated(self, name: str, constant: str, default: Any = None) -> Any:
        """The value of a part's constant as its file has it: read and not imported, for who must not wait for torch."""
        self.check(name)
        (folder,) = self._folders()
        tree = ast.parse(Path(folder, f"{name.replace('-', '_')}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == constant for t in node.targets):
                return ast.literal_eval(node.value)
        return default

    def __getitem__(self, name: str) -> ModuleType:
        if name not in self._asked:
            self.check(name)
            self._asked[name] = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        return self._asked[name]

    def check(self, name: str) -> str:
        """`name` if there is such a part, else UsageError with the nearest. Imports no part: answers at once."""
        names = self.names()
        if name not in names:
            raise UsageError(f"no {self.kind} '{name}'{nearest(name, names)} (there are: {', '.join(names)})")
        return name


ADAPTER_FORMATS = Registry("lorakit.formats.adapters", "adapter format")
DELTA_KINDS = Registry("lorakit.deltas", "kind of delta")
MERGE_METHODS = Registry("lorakit.merging", "merge method")
OPTIMIZERS = Registry("lorakit.training.optimizers", "optimizer")
TRACKERS = Registry("lorakit.training.trackers", "tracker")
TRAINABLE = Registry("lorakit.training.variants", "adapter variant")
COMPOSINGS = Registry("lorakit.composition.ways", "way to compose")
MODES = Registry("lorakit.modes", "training mode")
CLIENTS = Registry("lorakit.formats.clients", "client")
CAPTIONERS = Registry("lorakit.captioners", "captioner")
CROPS = Registry("lorakit.data.crops", "crop")
AUGMENTS = Registry("lorakit.data.augments", "augmentation")
MASKS = Registry("lorakit.masks", "mask")
