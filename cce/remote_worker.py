"""What a Hugging Face job runs: `python -m cce.remote_worker FOLDER`, with `CCE_REPOSITORY` and `HF_TOKEN` set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cce.remote import hub_api, work

if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), os.environ["CCE_REPOSITORY"], hub_api(os.environ.get("HF_TOKEN"))))
