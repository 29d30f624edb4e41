"""A scheduler and workers as processes of their own; some of them die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batching import run, values

from napari_emseg.batch import (
    ClusterSettings,
    RowChanged,
    cluster,
    context,
    engine,
    run_batch,
)
from napari_emseg.batch.cluster import SchedulerGoneError
from napari_emseg.io import save_stack
from napari_emseg.sample import synthetic

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that doesn't outlive the test."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Scheduler and two workers on loopback."""
    monkeypatch.setattr(context, "DEEPEST", 1)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    loopback = ("--host", "127.0.0.1", "--no-dashboard")
    worker = ("distributed.cli.dask_worker", address, *loopback, "--no-nanny")
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            program("distributed.cli.dask_scheduler", "--port", str(port), *loopback)
        )
        workers = [
            stack.enter_context(program(*worker, "--nthreads", "1", "--name", f"w{n}"))
            for n in range(2)
        ]
        wait_for(address, 2)
        yield {"address": address, "scheduler": scheduler, "workers": workers}


def wait_for(address: str, n: int) -> None:
    from distributed import Client

    until = time.monotonic() + 240
    while True:
        try:
            with Client(address, timeout=5) as client:
                if n:
                    client.wait_for_workers(n, timeout=240)
            return
        except OSError:
            assert time.monotonic() < until


@pytest.fixture
def membranes(tmp_path: Path) -> Path:
    """Probabilities of six drawn sections; their cells are found without torch."""
    _, cells = synthetic((6, 200, 180), seed=1)
    membrane = np.where(cells == 0, np.float32(0.9), np.float32(0.1))
    return save_stack(tmp_path / "p.zarr", membrane, voxel_size_nm=(50, 4, 4))


CELLS = {"steps": ("cells", "link"), "use": None}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("membranes", CELLS), pytest.param("em", {}, marks=pytest.mark.slow)],
)
def test_a_worker_killed_in_mid_run_changes_nothing(
    name, chosen, make_job, here, request
) -> None:
    words = str(request.getfixturevalue(name))
    plain = run(make_job(words, out="plain", **chosen))
    where = ClusterSettings(scheduler=here["address"])
    job = make_job(words, out="cluster", where=where, **chosen)
    work, summary, killed = run_batch(job), None, False
    while summary is None:
        try:
            record = next(work)
        except StopIteration as end:
            summary = end.value
            break
        if isinstance(record, RowChanged) and 0 < record.row.share < 1 and not killed:
            here["workers"][0].send_signal(signal.SIGKILL)
            killed = True
    assert killed
    assert summary.ok
    for one, other in zip(plain.rows[0].outputs, summary.rows[0].outputs, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


@pytest.mark.slow
def test_a_scheduler_that_dies_is_told_of_and_the_rest_done_later(
    make_job, here, capfd
) -> None:
    plain = run(make_job(out="plain"))
    work = run_batch(
        make_job(out="cluster", where=ClusterSettings(scheduler=here["address"]))
    )
    for record in work:
        if isinstance(record, RowChanged) and record.row.share > 0.3:
            break
    here["scheduler"].send_signal(signal.SIGKILL)
    capfd.readouterr()
    with pytest.raises(SchedulerGoneError, match="is gone"):
        deque(work, maxlen=0)
    assert "Traceback" not in capfd.readouterr().err
    second = run(make_job(out="cluster", resume=True))
    assert second.ok
    assert second.reused > 0
    for one, other in zip(plain.rows[0].outputs, second.rows[0].outputs, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


@pytest.mark.slow
def test_processes_of_our_own(make_job) -> None:
    plain = run(make_job(out="plain"))
    summary = run(make_job(out="two", where=ClusterSettings(workers=2)))
    assert summary.ok
    for one, other in zip(plain.rows[0].outputs, summary.rows[0].outputs, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def test_processes_of_our_own_let_nobody_else_in() -> None:
    pytest.importorskip("cryptography", reason="locks our own processes")
    from distributed import Client

    from napari_emseg.batch.where import here

    with here(1) as cluster, Client(cluster) as client:
        address = cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        assert client.submit(sum, (1, 2)).result(timeout=240) == 3
        told = client.submit(os.environ.get, "MALLOC_ARENA_MAX").result(timeout=240)
        assert told == "2"
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            Client(address.replace("tls", "tcp"), timeout=2)


def test_nothing_is_kept_of_what_workers_were_doing() -> None:
    from distributed import Client

    from napari_emseg.batch.where import here

    with here(None) as cluster, Client(cluster) as client:
        client.submit(time.sleep, 0.3).result(timeout=240)
        (worker,) = cluster.workers.values()
        kept = [worker.profile_recent, *(tree for _, tree in worker.profile_history)]
        assert sum(tree["count"] for tree in kept) == 0
        assert "profile-cycle" not in worker.periodic_callbacks


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_listed_as_failed(
    make_job, tmp_path, monkeypatch
) -> None:
    import deadly

    monkeypatch.setattr(context, "DEEPEST", 2)
    monkeypatch.setattr("napari_emseg.batch.membranes.Membranes", deadly.Deadly)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    summary = run(make_job(where=ClusterSettings(workers=2), steps=("membranes",)))
    (row,) = summary.rows
    assert row.state == "incomplete"
    assert not summary.ok
    assert len(row.warnings) == 1
    assert "z 2…3" in row.warnings[0]
    assert "died" in row.warnings[0]
    membrane = values(row.outputs[0])
    assert not membrane[2:4].any()
    assert membrane[[0, 1, 4, 5]].any(axis=(1, 2)).all()


def test_an_unreachable_scheduler_is_said(make_job, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=address):
        run(make_job(where=ClusterSettings(scheduler=address)))


@pytest.mark.slow
def test_other_versions_are_refused(make_job, here, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "0.0.0")
    with pytest.raises(RuntimeError, match=r"0\.0\.0"):
        run(make_job(where=ClusterSettings(scheduler=here["address"])))
    monkeypatch.setattr(cluster, "SAME", ("numpy",))
    told = cluster._told
    seen: list[int] = []

    def other(facts: dict[str, Any]) -> dict[str, str]:
        seen.append(1)
        return told(facts) | ({"numpy": "1.0"} if len(seen) == 1 else {})

    monkeypatch.setattr(cluster, "_told", other)
    with pytest.raises(RuntimeError, match=r"numpy 1\.0"):
        run(make_job(where=ClusterSettings(scheduler=here["address"]), overwrite=True))


@pytest.mark.slow
def test_a_scheduler_without_workers_is_told_of(make_job, monkeypatch) -> None:
    monkeypatch.setattr(engine, "LONELY", 0.5)
    port = free_port()
    words = ("--port", str(port), "--host", "127.0.0.1", "--no-dashboard")
    with program("distributed.cli.dask_scheduler", *words):
        wait_for(f"tcp://127.0.0.1:{port}", 0)
        job = make_job(where=ClusterSettings(scheduler=f"tcp://127.0.0.1:{port}"))
        work = run_batch(job)
        until = time.monotonic() + 240
        while "no worker" not in str(next(work)):
            assert time.monotonic() < until
        work.close()


def test_a_result_that_died_with_its_worker_is_waited_for(
    tmp_path, monkeypatch
) -> None:
    class Lost:
        """It was there when it was told of; since then another worker makes it."""

        status = "finished"

        def add_done_callback(self, tell) -> None:
            self.tell = tell

        def result(self, timeout: float) -> int:
            return 7

    class Dying(Lost):
        """It is lost while it is fetched."""

        gone = False

        def result(self, timeout: float) -> int:
            if not self.gone:
                self.gone = True
                msg = "no worker has it"
                raise TimeoutError(msg)
            return 8

    future = Lost()
    with cluster.Cluster(ClusterSettings(), tmp_path) as own:
        monkeypatch.setattr(own._client, "submit", lambda *_, **__: future)
        own.submit("part", None)
        future.tell(future)
        future.status = "lost"
        assert own.next_done(1) is None
        future.status = "finished"
        future.tell(future)
        assert own.next_done(1) == cluster.Done("part", 7, None)
        future = Dying()
        own.submit("other", None)
        future.tell(future)
        assert own.next_done(1) is None
        future.tell(future)
        assert own.next_done(1) == cluster.Done("other", 8, None)
