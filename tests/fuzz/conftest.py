"""Fuzzing needs atheris, which not every system has."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("atheris") else ["targets.py", "test_fuzz_targets.py"]
