"""What a Hugging Face job runs: `python -m cce.runs.remote_worker FOLDER`, with its environment set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cce.checkpoints.hub import connected
from cce.runs.remote import work

if __name__ == "__main__":
    hub = connected(os.environ.get("HF_TOKEN"))
    sys.exit(work(Path(sys.argv[1]), os.environ["CCE_REPOSITORY"], hub, os.environ["CCE_DEVICE"]))
