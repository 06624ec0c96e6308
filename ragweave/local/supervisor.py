"""Keeps the processes of the local mesh running, whoever dies: `python -m ragweave.local.supervisor`.

Two processes watch over one another. The supervisor starts, watches and restarts the mesh; the guard restarts the
supervisor, and is restarted by it. A new supervisor adopts the processes that still run, so losing it costs nothing.
Processes are watched through pidfds, which need no parenthood (pidfd_open(2)).
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragweave.backups.swapping import settle
from ragweave.local.hangs import LOOK_S, end_when_hung
from ragweave.local.layout import Layout, service_of
from ragweave.local.processes import Process, Succession, ensure_mesh_certificates, processes

# Seconds between a death and the next start: short at first, doubled while it keeps dying within _STEADY_S.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.2, 10.0, 20.0
_STOP_S = 20.0
# How long who takes over may need until the one before it has ended.
_HAND_OVER_S = 60.0
_EDGE_DRAIN_S = 0.5
# Set for each process, to its name.
_MARK = "RAGWEAVE_PROCESS"
_LOG_BYTES_MAX = 64 * 2**20
_LOG_LOOK_S = 30.0
_CERTIFICATES_LOOK_S = 3600.0


@dataclass
class Running:
    """A process as last started.

    Attributes:
        pid: 0 while it is down.
        start_ticks: The kernel's start time of the pid, so that a reused pid is not taken for it.
        restarts: Starts after the first.
        started_at: Unix time of the last start.
        last_exit: How it last ended; "" before that.
    """

    pid: int = 0
    start_ticks: int = 0
    restarts: int = 0
    started_at: float = 0.0
    last_exit: str = ""


def read_state(layout: Layout) -> dict[str, Any]:
    """What the supervisor last wrote: supervisor, guard, stopped, and a Running for each process; {} without one."""
    try:
        state: dict[str, Any] = json.loads(layout.state_file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state


def supervisor_pid(layout: Layout) -> int:
    """Pid of the supervisor of this data folder, 0 when none runs."""
    try:
        with layout.lock_file.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
    except FileNotFoundError:
        pass
    return 0


def start_ticks(pid: int) -> int:
    """The kernel's start time of a process in clock ticks since boot; 0 when it is gone (proc(5), stat field 22)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if after_name[0] == "Z" else int(after_name[19])


class MeshRuns(Exception):
    """What is asked for cannot be done while the mesh runs; the message says what does."""


class Supervisor:
    """Keeps processes of one layout running until it is told to stop."""

    def __init__(self, layout: Layout, to_run: Sequence[Process], *, hang_look_s: float = LOOK_S) -> None:
        self._layout = layout
        self._hang_look_s = hang_look_s
        self._all = to_run
        self._state = {p.name: Running() for p in self._all}
        self._stopping = asyncio.Event()
        self._asked = {p.name: asyncio.Event() for p in self._all}
        self._leaving: set[asyncio.Task[None]] = set()
        self._guard = os.getppid()
        self._stopped = False
        self._unwritten = False

    async def run(self) -> None:
        """Returns when `stop` has been called, by SIGTERM or SIGINT too, and everything has stopped in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        shutil.rmtree(self._layout.restarts, ignore_errors=True)  # what was asked of an earlier one
        loop.add_signal_handler(signal.SIGHUP, self._look_for_requests)
        self._adopt()
        keepers = {p.name: asyncio.create_task(self._keep(p)) for p in self._all}
        watchers = (self._keep_guard(), self._bound_logs(), self._keep_certificates())
        others = [asyncio.create_task(each) for each in watchers]
        await self._stopping.wait()
        for task in others:
            task.cancel()
        await self._stop_in_order(keepers)
        await asyncio.gather(*self._leaving)
        self._stopped = True
        self._write_state()

    def stop(self) -> None:
        """Begins to stop everything."""
        self._stopping.set()

    def _look_for_requests(self) -> None:
        """Takes the names of processes that somebody wants to be restarted."""
        for path in self._layout.restarts.glob("*"):
            path.unlink(missing_ok=True)
            if path.name in self._asked:
                self._asked[path.name].set()

    def _adopt(self) -> None:
        """Takes over what an earlier supervisor left running, so that it is neither lost nor started twice."""
        earlier = read_state(self._layout).get("processes", {})
        left = {**_recorded_running(earlier), **_left_running(self._layout)}
        for name, state in self._state.items():
            state.restarts = earlier.get(name, {}).get("restarts", 0)
            if pid := left.get(name, 0):
                state.pid, state.start_ticks, state.started_at = pid, start_ticks(pid), time.time()
                _say(f"{name}: adopted pid {pid}")
        self._write_state()

    async def _keep(self, process: Process) -> None:
        """Starts a process, and again whenever it ends, until the supervisor stops."""
        pause = _FIRST_PAUSE_S
        state = self._state[process.name]
        while not self._stopping.is_set():
            if not state.pid:
                try:
                    await self._start(process, state)
                except OSError as error:
                    _say(f"{process.name}: cannot be started: {error}")
            if state.pid:
                ended = asyncio.create_task(self._ended(process, state.pid))
                while await self._asked_before(ended, self._asked[process.name]):
                    ended = await self._restart(process, state, ended)
                state.last_exit = await ended
                state.pid = 0
                self._write_state()
                if self._stopping.is_set():
                    return
                lasted = time.time() - state.started_at
                pause = _FIRST_PAUSE_S if lasted > _STEADY_S else min(pause * 2, _LONGEST_PAUSE_S)
                _say(f"{process.name}: {state.last_exit} after {lasted:.1f} s; starting it again in {pause:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _asked_before(self, ended: "asyncio.Task[str]", asked: asyncio.Event) -> bool:
        """Whether somebody asks for a restart before the process has ended."""
        told = asyncio.create_task(asked.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        asked.clear()
        return not ended.done()

    async def _restart(self, process: Process, state: Running, ended: "asyncio.Task[str]") -> "asyncio.Task[str]":
        """Has another process take the place of one that runs; the end of what runs then."""
        pid, ticks = state.pid, state.start_ticks
        _say(f"{process.name}: restarted as asked, pid {pid} goes")
        if process.succession is Succession.WITHIN:
            os.kill(pid, signal.SIGHUP)
            return ended
        if process.succession is Succession.OVER:
            return await self._hand_over(process, state, ended)
        leaving = asyncio.create_task(self._end(process.name, pid, ended))
        if process.succession is Succession.AFTER:
            await leaving
        else:
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        try:
            await self._start(process, state, predecessor=f"{pid}:{ticks}")
        except OSError as error:
            _say(f"{process.name}: cannot be started: {error}")
        return ended if state.pid == pid else asyncio.create_task(self._ended(process, state.pid))

    async def _hand_over(self, process: Process, state: Running, ended: "asyncio.Task[str]") -> "asyncio.Task[str]":
        """As `_restart`; the successor has what runs go, which goes on where that one does not come."""
        pid, ticks, began = state.pid, state.start_ticks, state.started_at
        try:
            await self._start(process, state, predecessor=f"{pid}:{ticks}", takes_over=True)
        except OSError as error:
            _say(f"{process.name}: cannot be started: {error}")
        if state.pid == pid:
            return ended
        coming = asyncio.create_task(self._ended(process, state.pid))
        await asyncio.wait({ended, coming}, return_when=asyncio.FIRST_COMPLETED, timeout=_HAND_OVER_S)
        if ended.done():
            return coming
        _say(f"{process.name}: pid {state.pid} does not take over; pid {pid} goes on")
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGKILL)
        await coming
        state.pid, state.start_ticks, state.started_at = pid, ticks, began
        self._write_state()
        if self._stopping.is_set():
            os.kill(pid, signal.SIGTERM)
        return ended

    async def _end(self, name: str, pid: int, ended: "asyncio.Future[Any]") -> None:
        """Ends a process, in good order where it does so in time."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        done, _ = await asyncio.wait([ended], timeout=_STOP_S)
        if not done:
            _say(f"{name}: did not stop within {_STOP_S:.0f} s; killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await ended

    async def _start(
        self, process: Process, state: Running, *, predecessor: str = "", takes_over: bool = False
    ) -> None:
        heartbeat = self._layout.heartbeat(process.name)
        heartbeat.unlink(missing_ok=True)
        mark = {
            _MARK: process.name,
            "RAGWEAVE_HEARTBEAT_FILE": str(heartbeat),
            "RAGWEAVE_PREDECESSOR": predecessor,
            "RAGWEAVE_TAKES_OVER": "on" if takes_over else "off",
        }
        environment = {**os.environ, **self._layout.environment(), **process.environment, **mark}
        if process.after:
            await self._exists(process.after)
        if self._stopping.is_set():
            return
        with (self._layout.logs / f"{process.name}.log").open("ab") as log:
            pid = _spawn(process.command, environment, log.fileno())
        state.restarts += bool(state.started_at)
        state.pid, state.start_ticks, state.started_at = pid, start_ticks(pid), time.time()
        self._write_state()
        _say(f"{process.name}: started, pid {pid}")

    async def _ended(self, process: Process, pid: int) -> str:
        """Waits until a process has ended, by itself or because it hung; says how."""
        watching = asyncio.create_task(
            end_when_hung(pid, self._layout.heartbeat(process.name), look_s=self._hang_look_s)
        )
        try:
            how = await _ended(pid)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return how

    async def _exists(self, path: Path) -> None:
        while not os.path.exists(path) and not self._stopping.is_set():  # noqa: ASYNC110, ASYNC240 - a stat a look
            await asyncio.sleep(0.02)

    async def _stop_in_order(self, keepers: dict[str, asyncio.Task[None]]) -> None:
        """The edge first, so that nothing new comes in; then who is handed the others' last figures, and the store,
        so that everything can still be written.
        """
        turns = {"envoy": 0, "system": 2, "redis": 3}
        await asyncio.to_thread(self._drain_edge)
        for turn in range(4):
            names = [name for name in keepers if turns.get(service_of(name), 1) == turn]
            await asyncio.gather(*(self._stop(name, keepers[name]) for name in names))

    def _drain_edge(self) -> None:
        url = f"http://{self._layout.address('edge admin')}/drain_listeners?graceful"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=1).close()
            time.sleep(_EDGE_DRAIN_S)

    async def _stop(self, name: str, keeper: asyncio.Task[None]) -> None:
        pid = self._state[name].pid
        if pid:
            await self._end(name, pid, keeper)
        await keeper

    async def _keep_guard(self) -> None:
        while True:
            await _ended(self._guard)
            self._guard = _spawn_guard(self._layout)
            self._write_state()

    async def _bound_logs(self) -> None:
        """Moves a log that has grown too long to `.1`; the writer appends, so it goes on at the new start."""
        while True:
            if self._unwritten:
                self._write_state()
            for path in self._layout.logs.glob("*.log"):
                if path.stat().st_size > _LOG_BYTES_MAX:
                    older = path.with_suffix(".log.1")
                    try:
                        await asyncio.to_thread(shutil.copyfile, path, older)
                    except OSError:  # no room for both
                        older.unlink(missing_ok=True)
                    os.truncate(path, 0)
            await asyncio.sleep(_LOG_LOOK_S)

    async def _keep_certificates(self) -> None:
        """Renews the local CA's certificates in time; the processes read them anew by themselves."""
        while self._layout.tls and not self._layout.mounted:
            await asyncio.sleep(_CERTIFICATES_LOOK_S)
            for role in await asyncio.to_thread(ensure_mesh_certificates, self._layout, self._all):
                _say(f"{role}: certificate renewed")

    def _write_state(self) -> None:
        state = {
            "supervisor": os.getpid(),
            "guard": self._guard,
            "stopped": self._stopped,
            "processes": {name: asdict(each) for name, each in self._state.items()},
        }
        part = self._layout.state_file.with_suffix(".part")
        try:
            part.write_text(json.dumps(state, indent=2))
            part.rename(self._layout.state_file)
        except OSError as error:  # a full disk: what runs is kept running all the same, and written down later
            self._unwritten = True
            _say(f"cannot write down what runs: {error}")
        else:
            self._unwritten = False


def _recorded_running(processes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Pids by name of those in the state file that still run: a process may write over its environment, as Valkey does
    to show its title, and then bears no mark.
    """
    entries = {name: (int(entry.get("pid") or 0), entry.get("start_ticks")) for name, entry in processes.items()}
    return {name: pid for name, (pid, ticks) in entries.items() if pid and start_ticks(pid) == ticks}


def _left_running(layout: Layout) -> dict[str, int]:
    """Pids by name of this data folder's processes, whoever started them. Each of ours leads a session."""
    folder_mark = f"RAGWEAVE_DATA_DIR={layout.data}"
    found: dict[str, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
            if os.getsid(pid) == pid and folder_mark in environment and start_ticks(pid):
                for name in (entry.removeprefix(f"{_MARK}=") for entry in environment if entry.startswith(f"{_MARK}=")):
                    if start_ticks(pid) > start_ticks(found.get(name, 0)):  # one that goes is older than its successor
                        found[name] = pid
    return found


async def _ended(pid: int) -> str:
    """Waits until a process has ended, child or not; says how, where it was a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return "ended"
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    try:
        _, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended
    except ChildProcessError:
        return "ended"
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


@contextlib.contextmanager
def supervising(layout: Layout) -> Iterator[None]:
    """Makes this the one supervisor of the data folder. Raises SystemExit when there is another."""
    layout.lock_file.parent.mkdir(parents=True, exist_ok=True)
    with layout.lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"a supervisor already runs on {layout.data}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def kept_down(layout: Layout) -> Iterator[None]:
    """Keeps the mesh from starting meanwhile. Raises MeshRuns where a process of it runs."""
    try:
        with supervising(layout):
            recorded = _recorded_running(read_state(layout).get("processes", {}))
            if running := sorted({**recorded, **_left_running(layout)}):
                raise MeshRuns(f"still running on {layout.data}: {', '.join(running)}; `ragweave down` stops the mesh")
            yield
    except SystemExit:
        raise MeshRuns(f"the mesh runs on {layout.data}; `ragweave down` stops it") from None


def _spawn_guard(layout: Layout) -> int:
    """Starts a guard; returns its pid."""
    layout.logs.mkdir(parents=True, exist_ok=True)
    with (layout.logs / "supervisor.log").open("ab") as log:
        return _spawn([sys.executable, "-m", "ragweave.local.supervisor"], os.environ, log.fileno())


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: int) -> int:
    """Starts a process in a session of its own that writes to the open file `log`; returns its pid."""
    return os.posix_spawn(
        command[0],
        list(command),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigmask=(),
    )


def start_detached(layout: Layout) -> None:
    """Starts guard and supervisor in the background and returns at once."""
    layout.state_file.parent.mkdir(parents=True, exist_ok=True)
    _spawn_guard(layout)


def guard(layout: Layout) -> None:
    """Keeps a supervisor running until one has stopped on purpose."""
    while True:
        pid = supervisor_pid(layout)
        if not pid:
            command = [sys.executable, "-m", "ragweave.local.supervisor", "--supervise"]
            pid = _spawn(command, os.environ, sys.stderr.fileno())
        asyncio.run(_ended(pid))
        if read_state(layout).get("stopped") and not supervisor_pid(layout):
            return
        _say("supervisor: ended unasked; starting it again")
        time.sleep(_FIRST_PAUSE_S)


def supervise(layout: Layout) -> None:
    """Runs the supervisor in this process."""
    os.chdir(layout.root)
    layout.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with supervising(layout):
        if settle(layout.data):
            _say("a restore had been cut off: everything is as it was before it")
        for folder in (layout.logs, layout.data / "redis", layout.import_root, layout.edge):
            folder.mkdir(parents=True, exist_ok=True)
        layout.redis_socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        asyncio.run(Supervisor(layout, processes(layout)).run())


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the log's disk is full
        print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    (supervise if "--supervise" in sys.argv else guard)(Layout.read())
