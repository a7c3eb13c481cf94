"""Remote: a run on Hugging Face Jobs, a GPU by the minute. A private repository on the Hub is the only link.

The job trains in a copy of the run folder and sends it to the repository again and again; here it is
mirrored into the same run folder, so that it is watched, resumed and exported like any other run.
Tokens stay in memory: in no file, in no log.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cce.checkpoints.hub import HubError, connected, speaking
from cce.config import TrainConfig, to_json
from cce.runs.background import repeat
from cce.runs.job import Job, JobError, write_record
from cce.runs.queue import Jobs
from cce.training.run_folder import RunError, RunFolder

log = logging.getLogger(__name__)

FLAVORS = ("t4-small", "l4x1", "a10g-small", "a100-large", "h200", "cpu-upgrade")
"""Machines to choose from, by their names on Hugging Face Jobs."""

# The documented default of `huggingface_hub.HfApi.run_uv_job` (Debian, Python 3.12, uv), with and without a GPU.
# uv then takes the torch build that fits the driver it finds: docs.astral.sh/uv/guides/integration/pytorch.
IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
NEEDED = (
    *("torch", "torchvision", "numpy", "safetensors", "scikit-learn", "pillow", "tqdm", "plotly", "foolbox"),
    "pillow_heif",
    "jinja2",
    "markupsafe",
    "huggingface_hub",
)
"""What the library imports, installed for the job in the versions that are here."""

SYNC_SECONDS = 60.0
"""Between two copies of the run folder to the Hub, which allows about a hundred an hour."""

_CODE = ".code"
_MIRRORED = ("status.json", "metrics.jsonl", "log.txt", "last/*", "checkpoint/*")
_RUN = (
    "uv pip install --system -q --torch-backend=auto -r /tmp/cce/.code/requirements.txt"
    " && cd /tmp/cce/.code && python -m cce.runs.remote_worker /tmp/cce"
)
_FETCH = (
    'uv pip install --system -q huggingface_hub && python -c "import os; from huggingface_hub import HfApi; '
    "HfApi().snapshot_download(os.environ['CCE_REPOSITORY'], local_dir='/tmp/cce')\""
)

MakeApi = Callable[[str | None], Any]


class Remote:
    """The runs of a folder that are on Hugging Face Jobs.

    Args:
        jobs: the runs.
        make_api: makes the client of the Hub from a token.
    """

    def __init__(self, jobs: Jobs, make_api: MakeApi = connected) -> None:
        self.jobs, self.make_api = jobs, make_api
        self._tokens: dict[str, str] = {}

    def start(self, name: str, config: TrainConfig, flavor: str, token: str) -> Job:
        """Make a run and give it to Hugging Face Jobs.

        Raises:
            JobError: a name or machine that cannot be used.
            HubError: the Hub refused or could not be reached; nothing is left here.
        """
        token = self._checked(flavor, token)
        if config.data_dir:
            raise JobError("pictures of your own lie on this machine, where Hugging Face Jobs cannot read them")
        with self.jobs.making(name, config) as folder:
            folder.create(to_json(config))
            write_record(folder, {"state": "remote", "created": time.time(), "remote": {"stage": "SENDING"}})
        try:
            api = self.make_api(token)
            with speaking(name, token):
                repository = f"{api.whoami()['name']}/{name}"
                api.create_repo(repository, private=True, exist_ok=False)
            self._launch(folder, name, repository, flavor, api)
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        self._tokens[name] = token
        return self.jobs.get(name)

    def resume(self, name: str, token: str) -> Job:
        """Give a run to Hugging Face Jobs again; it goes on from the state in its repository."""
        job = self.jobs.get(name)
        remote = job.remote or {}
        if job.state not in ("stopped", "failed") or not remote:
            raise JobError(f"{name} cannot be resumed on Hugging Face Jobs")
        token = self._checked(remote["flavor"], token or self._tokens.get(name, ""))
        self._launch(job.folder, name, remote["repository"], remote["flavor"], self.make_api(token))
        self._tokens[name] = token
        return self.jobs.get(name)

    def stop(self, name: str) -> Job:
        """Cancel the job; what was last sent to the repository stays."""
        job = self.jobs.get(name)
        with speaking(name):
            self._api(name).cancel_job(job_id=job.record["remote"]["job_id"])
        self._note(job, stop_asked=time.time())
        self.mirror(name)
        return self.jobs.get(name)

    def mirror(self, name: str) -> None:
        """Bring the run folder here up to what the job has sent."""
        job = self.jobs.get(name)
        remote, api = job.record["remote"], self._api(name)
        with speaking(name):
            info = api.inspect_job(job_id=remote["job_id"])
            api.snapshot_download(remote["repository"], local_dir=job.folder.path, allow_patterns=list(_MIRRORED))
        stage = str(getattr(info.status.stage, "value", info.status.stage))
        self._note(job, stage=stage, message=info.status.message, seen=time.time(), problem=None)

    def mirror_all(self) -> None:
        """Mirror every run that is not over; a Hub that does not answer is noted on the run."""
        for job in self.jobs.all():
            if job.live and job.remote and "job_id" in job.remote:
                try:
                    self.mirror(job.name)
                except HubError as error:
                    self._note(job, problem=str(error))
                except (OSError, RunError, KeyError) as error:  # one run's trouble is not the others'
                    log.warning("%s could not be mirrored: %s", job.name, error)

    def watch(self, seconds: float = 20.0) -> threading.Thread:
        """Mirror for as long as this process lives."""
        return repeat(self.mirror_all, seconds, "remote runs")

    def _launch(self, folder: RunFolder, name: str, repository: str, flavor: str, api: Any) -> None:
        with speaking(name):
            send_code(api, repository, folder)
            info = api.run_job(
                image=IMAGE,
                command=["bash", "-c", f"{_FETCH} && {_RUN}"],
                # On a machine with a GPU, training on its CPU would only cost money: it fails instead.
                env={"CCE_REPOSITORY": repository, "CCE_DEVICE": "cpu" if flavor.startswith("cpu") else "cuda"},
                secrets={"HF_TOKEN": api.token},
                flavor=flavor,
                timeout="24h",
                labels={"cce-studio": name},
            )
        remote = {"job_id": info.id, "repository": repository, "flavor": flavor, "stage": "SCHEDULING"}
        remote |= {"address": getattr(info, "url", None), "seen": time.time()}
        created = self.jobs.get(name).record.get("created", time.time())
        write_record(folder, {"state": "remote", "created": created, "started_at": time.time(), "remote": remote})

    def _note(self, job: Job, **more: Any) -> None:
        fresh = self.jobs.get(job.name).record
        write_record(job.folder, {**fresh, "remote": {**fresh["remote"], **more}})

    def _api(self, name: str) -> Any:
        return self.make_api(self._tokens.get(name))

    def _checked(self, flavor: str, token: str) -> str:
        if flavor not in FLAVORS:
            raise JobError(f"the machine is {flavor!r}; there is {', '.join(FLAVORS)}")
        if not str(token or "").strip():
            raise JobError("Hugging Face Jobs needs an access token with the right to start jobs")
        return str(token).strip()


def send_code(api: Any, repository: str, folder: RunFolder) -> None:
    """Upload this library and the run's config, which is all that the job needs."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        shutil.copytree(root / "cce", place / _CODE / "cce", ignore=shutil.ignore_patterns("__pycache__"))
        (place / _CODE / "requirements.txt").write_text(requirements(), encoding="utf-8")
        shutil.copy(folder.path / "config.json", place / "config.json")
        api.upload_folder(repo_id=repository, folder_path=place, commit_message="The run's code and config")


def requirements() -> str:
    """What the job installs: the library's packages as they are here, torch without its build for this machine."""
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in NEEDED)


def work(folder: Path, repository: str, api: Any, device: str = "auto", seconds: float = SYNC_SECONDS) -> int:
    """The job's part: train in `folder` and send it to the repository until it is done; the exit status."""
    run = folder.absolute()
    command = [sys.executable, "-m", "cce", "train", "--run", str(run), "--name", repository.partition("/")[2]]
    command += ["--device", device]
    with (run / "log.txt").open("ab") as log:
        trainer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    while trainer.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            trainer.wait(seconds)
        with contextlib.suppress(HubError), speaking(repository):  # the next copy brings what this one did not
            api.upload_folder(
                repo_id=repository, folder_path=run, allow_patterns=list(_MIRRORED), commit_message="The run so far"
            )
    return trainer.returncode
