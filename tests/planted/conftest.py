"""The planted papers are subjects of tests, never tests."""

collect_ignore_glob = ["*.py"]
