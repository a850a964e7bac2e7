"""Print how long every part takes; the same as ``semfocus benchmark --speed``, for those who look for a script.

Usage: python benchmarks/pipeline.py [--seconds 1.0] [--json]
"""

import sys

from semfocus_plugin.lab.cli import app

if __name__ == "__main__":
    app(["benchmark", "--speed", *sys.argv[1:]])
