"""The commands of `lbclient`: a module each. `add` declares its arguments; the work is imported when it is run."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
