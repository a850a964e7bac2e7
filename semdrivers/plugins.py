"""The hooks that plugins implement, and the plugin manager: which plugins there are, and why some did not load.

Every entry point of the group ``semdrivers`` leaves a `PluginRecord`, broken ones included. A broken plugin never stops
a host: its error is kept in its record, and named in the messages of calls that it might have answered.

Environment: ``SEMDRIVERS_PLUGINS=name,name`` loads these alone (empty loads none; unset loads all);
``SEMDRIVERS_TRACE=1`` writes every hook call to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from semdrivers.errors import InvalidParameterError, SemDriversError
from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.image import Image
from semdrivers.microscope import Microscope

__all__ = [
    "ALLOW_LIST_VARIABLE", "GROUP", "TRACE_VARIABLE", "PluginManager", "PluginRecord", "get_plugin_manager",
    "hookimpl", "hookspec", "semdrivers_autofocus", "semdrivers_autofocus_methods", "semdrivers_connect",
    "semdrivers_focus_between", "semdrivers_frame", "semdrivers_schemes", "semdrivers_specimens", "semdrivers_stop",
    "unknown",
]  # fmt: skip

hookspec = pluggy.HookspecMarker("semdrivers")
"""Marks the specification of a hook."""
hookimpl = pluggy.HookimplMarker("semdrivers")
"""Marks a function of a plugin as the implementation of the hook of that name."""


@hookspec(firstresult=True)
def semdrivers_connect(url: str, options: Mapping[str, Any]) -> Microscope | None:
    """Open the microscope that `url` names, or return None when the scheme is another's."""


@hookspec(firstresult=True)
def semdrivers_stop(url: str, options: Mapping[str, Any]) -> bool | None:
    """Stop the scan and blank the beam of the microscope that `url` names, whoever controls it, and return True.

    None when the scheme is another's, or its instruments can be stopped by the client in control alone.
    """


@hookspec
def semdrivers_schemes() -> Mapping[str, str]:
    """Return the URL schemes that ``semdrivers_connect`` opens, each with an example."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def semdrivers_autofocus(
    microscope: Microscope, settings: AutofocusSettings, progress: Progress | None, cancel: threading.Event | None
) -> AutofocusResult | None:
    """Focus the microscope, or return None when the method in `settings` is another's."""


@hookspec
def semdrivers_autofocus_methods() -> Mapping[str, str]:
    """Return names of autofocus methods, each with a one-line description."""
    raise AssertionError("a specification is never called")


@hookspec
def semdrivers_specimens() -> Mapping[str, Any]:
    """Return names of emulator specimens, each with a factory ``factory(seed) -> Specimen``."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def semdrivers_focus_between(
    microscope: Microscope, first: Image, second: Image, row: float, column: float, depth_of_field: float
) -> tuple[float, float] | None:
    """Return the working distance of focus where two pictures overlap, and its standard deviation, mm; None if unclear.

    The second should lie `row` pixels below and `column` pixels to the right of the first; `depth_of_field` is in mm.
    """


@hookspec
def semdrivers_frame(microscope: Microscope, image: Image) -> None:
    """Watch a frame that was just acquired; what it returns is ignored."""


GROUP = "semdrivers"
"""Group of entry points in which plugins are installed."""
ALLOW_LIST_VARIABLE = "SEMDRIVERS_PLUGINS"
"""Environment variable that names the plugins to load."""
TRACE_VARIABLE = "SEMDRIVERS_TRACE"
"""Environment variable that writes every hook call to stderr."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What became of one entry point.

    Parameters
    ----------
    name : str
        Name of the entry point.
    distribution, version : str
        Name and version of the installed distribution that brings it.
    value : str
        The object that the entry point names, such as ``"semfocus_plugin.plugin"``.
    hooks : tuple of str
        Hooks that it implements; empty when it did not load.
    error : str or None
        Why it is not in use, or None when it is.
    """

    name: str
    distribution: str
    version: str
    value: str
    hooks: tuple[str, ...] = ()
    error: str | None = None

    @property
    def loaded(self) -> bool:
        """Whether the plugin is in use."""
        return self.error is None


class PluginManager(pluggy.PluginManager):
    """Holds the plugins; `get_plugin_manager` returns the one that everything shares."""

    def __init__(self) -> None:
        super().__init__(GROUP)
        self.add_hookspecs(sys.modules[__name__])
        self._records: list[PluginRecord] = []

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """One record for every entry point of the group, in order of name."""
        return tuple(sorted(self._records, key=lambda record: (record.name, record.distribution)))

    @property
    def failures(self) -> dict[str, str]:
        """Names of the plugins that are not in use, each with the reason."""
        return {
            f"plugin {record.name} ({record.distribution} {record.version})".rstrip(): record.error
            for record in self.records
            if record.error is not None
        }

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin: a module, or any other object that can be hashed.

        Raises
        ------
        InvalidParameterError
            When it cannot be hashed: pluggy keeps plugins in sets, and one such would spoil the others' calls.
        ValueError, pluggy.PluginValidationError
            When the name is taken, or a hook does not fit its specification.
        """
        try:
            hash(plugin)
        except TypeError:
            raise InvalidParameterError(
                f"plugin {name!r} is a {type(plugin).__name__}, which cannot be hashed; name a module instead"
            ) from None
        return super().register(plugin, name)

    def load(self, points: list[EntryPoint], allowed: frozenset[str] | None) -> None:
        """Load `points`, or of them those whose names are `allowed`, and record what became of each.

        pluggy calls the plugin registered last first, so this distribution's own come last: another plugin
        replaces a built-in only by saying so (``@hookimpl(tryfirst=True)``).
        """
        taken: dict[str, str] = {}
        records = []
        for point in sorted(points, key=lambda point: (_distribution(point)[0] != "semdrivers", point.name)):
            distribution, version = _distribution(point)
            error: str | None = None
            if point.name in taken:
                error = f"the name {point.name!r} is taken by {taken[point.name]}"
            elif allowed is not None and point.name not in allowed:
                error = f"left out by {ALLOW_LIST_VARIABLE}"
            taken.setdefault(point.name, distribution)
            record = PluginRecord(point.name, distribution, version, point.value, error=error)
            records.append((point, record))
        for point, record in reversed(records):
            self._records.append(record if record.error else self._load_one(point, record))

    def _load_one(self, point: EntryPoint, record: PluginRecord) -> PluginRecord:
        try:
            plugin = point.load()
            self.register(plugin, point.name)
            self.check_pending()
        except (Exception, SystemExit) as error:
            if self.has_plugin(point.name):
                self.unregister(name=point.name)
            reason = _one_line(error)
            _log.warning("plugin %s of %s did not load: %s", record.name, record.distribution, reason)
            return replace(record, error=reason)
        callers = self.get_hookcallers(plugin) or ()
        return replace(record, hooks=tuple(sorted(caller.name for caller in callers)))

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call `hook` plugin by plugin, wrappers around each, and yield the plugin's name with its answer.

        The answer is the exception itself where the plugin raised one, so that a plugin cannot spoil what the
        others have to say. Plugins that answer None are left out.
        """
        implementations = [impl for impl in getattr(self.hook, hook).get_hookimpls() if not _wraps(impl)]
        for implementation in reversed(implementations):
            others = [other.plugin for other in implementations if other.plugin is not implementation.plugin]
            try:
                answer = self.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:
                answer = error
            if isinstance(answer, list):
                answer = next(iter(answer), None)
            if answer is not None:
                yield implementation.plugin_name, answer

    def _merged(self, hook: str) -> dict[str, tuple[str, Any]]:
        """Return the mappings that plugins answer as one: name to (plugin, value); the first has it."""
        merged: dict[str, tuple[str, Any]] = {}
        for plugin, answer in self.each(hook):
            if not isinstance(answer, Mapping):
                _log.warning("plugin %s: %s failed: %s", plugin, hook, _one_line(answer))
                continue
            for name, value in answer.items():
                merged.setdefault(str(name), (plugin, value))
        return merged

    def schemes(self) -> dict[str, str]:
        """Return the URL schemes that `semdrivers.connect` opens, each with an example."""
        return {name: str(example) for name, (_, example) in self._merged("semdrivers_schemes").items()}

    def specimens(self) -> dict[str, Any]:
        """Return the emulator's specimens: name to ``factory(seed)``."""
        return {name: factory for name, (_, factory) in self._merged("semdrivers_specimens").items()}

    def autofocus_methods(self) -> dict[str, str]:
        """Return names of the autofocus methods, each with a one-line description."""
        return {name: str(text) for name, (_, text) in self._merged("semdrivers_autofocus_methods").items()}

    def check_autofocus_method(self, name: str) -> None:
        """Raise unless a plugin offers the autofocus method `name`.

        Raises
        ------
        InvalidParameterError
            Listing the methods there are, the closest first named, and the plugins that did not load.
        """
        known = self.autofocus_methods()
        if name not in known:
            raise InvalidParameterError(
                unknown("autofocus method", name, known, nothing="no installed plugin offers any") + self._why_less()
            )

    def autofocus_hook(self, method: str | None) -> Any:
        """Return the hook ``semdrivers_autofocus``, confined to the plugin that offers `method` if given."""
        if method is None:
            return self.hook.semdrivers_autofocus
        owner = self._merged("semdrivers_autofocus_methods")[method][0]
        implementations = self.hook.semdrivers_autofocus.get_hookimpls()
        others = [each.plugin for each in implementations if each.plugin_name != owner and not _wraps(each)]
        return self.subset_hook_caller("semdrivers_autofocus", others)

    def describe_missing_autofocus(self, method: str | None) -> str:
        """Return a message for a run that every plugin declined."""
        what = "autofocus" if method is None else f"autofocus method {method!r}"
        known = ", ".join(self.autofocus_methods()) or "none"
        return f"no plugin carried out the {what}; methods offered: {known}" + self._why_less()

    def _why_less(self) -> str:
        return "".join(f"\n  {plugin}: {error}" for plugin, error in self.failures.items())

    def notify_frame(self, microscope: Microscope, image: Image) -> None:
        """Show a frame to the watchers (hook ``semdrivers_frame``); one that raises is logged, no more."""
        if not self.hook.semdrivers_frame.get_hookimpls():
            return
        for plugin, answer in self.each("semdrivers_frame", microscope=microscope, image=image):
            if isinstance(answer, Exception):
                _log.error("plugin %s raised while watching a frame", plugin, exc_info=answer)


_manager: PluginManager | None = None
_manager_lock = threading.RLock()


def get_plugin_manager() -> PluginManager:
    """Return the plugin manager of this process; the first call loads the plugins.

    Raises
    ------
    InvalidParameterError
        When ``SEMDRIVERS_PLUGINS`` names a plugin that is not installed.
    """
    global _manager
    with _manager_lock:
        if _manager is None:
            points = list(entry_points(group=GROUP))
            allowed = _allow_list(points)
            manager = PluginManager()
            if os.environ.get(TRACE_VARIABLE, "") not in ("", "0"):
                _trace(manager)
            manager.load(points, allowed)
            _manager = manager
        return _manager


def unknown(kind: str, name: object, known: Mapping[str, Any] | list[str], nothing: str = "there is none") -> str:
    """Return a message for an unknown name: what there is, and the closest to what was asked for."""
    if not known:
        return f"unknown {kind} {name!r}; {nothing}"
    close = get_close_matches(str(name), list(known), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}"


def _allow_list(points: list[EntryPoint]) -> frozenset[str] | None:
    text = os.environ.get(ALLOW_LIST_VARIABLE)
    if text is None:
        return None
    names = frozenset(filter(None, (name.strip() for name in text.split(","))))
    installed = sorted({point.name for point in points})
    for name in sorted(names.difference(installed)):
        raise InvalidParameterError(unknown("plugin", name, installed) + f" (from {ALLOW_LIST_VARIABLE})")
    return names


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown", "")


def _wraps(implementation: pluggy.HookImpl) -> bool:
    return bool(implementation.wrapper or implementation.hookwrapper)


def _one_line(error: object) -> str:
    if not isinstance(error, BaseException):
        return f"it returned {type(error).__name__}"
    text = " ".join(str(error).split())
    if isinstance(error, SemDriversError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trace(manager: PluginManager) -> None:
    """Write every hook call, its plugins and its outcome to the log, and the log to stderr."""
    log = logging.getLogger("semdrivers.trace")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.DEBUG)

    def before(hook: str, implementations: Any, arguments: Mapping[str, object]) -> None:
        shown = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
        asked = ", ".join(implementation.plugin_name for implementation in implementations)
        log.debug("%s(%s) asks %s", hook, shown, asked or "nobody")

    def after(outcome: Any, hook: str, implementations: Any, arguments: Mapping[str, object]) -> None:
        if outcome.exception is None:
            log.debug("%s -> %s", hook, _short(outcome.get_result()))
        else:
            log.debug("%s raised %s", hook, _one_line(outcome.exception))

    manager.add_hookcall_monitoring(before, after)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
