"""A small W&B on loopback: answers what W&B's client asks, keeps what it is given, and fails in the ways servers fail.

What is asked was looked up in wandb 0.31's binary (``strings wandb-core``) and in wandb-workspaces 0.4. As the real one
it stores the lines of a run's files by their number: who sends line 3 again replaces it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pandas as pd
import pytest

KEY = "recognisable0key0that0must0never0be0seen"
USER = "somebody"
HISTORY = "wandb-history.jsonl"

Fault = Literal["down", "silent"] | int | None
"""Gone; accepts and never answers; answers everything with this status."""


@dataclass
class ReceivedRun:
    """What the server knows of one run."""

    id: str
    project: str
    entity: str
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of each file that is streamed, by their number."""
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    """What else it was opened with: displayName, groupName, jobType, tags, sweep, notes, ..."""
    times_opened: int = 0
    exit_code: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The config as one sets it, without W&B's own words on the machine and the library."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, in the order of its lines."""
        lines = self.lines.get(HISTORY, {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    def curve(self, metric: str) -> dict[int, Any]:
        """Optimizer step -> value, the last where a step was sent more than once."""
        return {row["trainer/global_step"]: row[metric] for row in self.rows if metric in row}

    def as_bucket(self) -> dict[str, Any]:
        """What GraphQL tells of it."""
        events = self.lines.get("wandb-events.jsonl", {})
        return {
            "id": f"storage-{self.id}",
            "name": self.id,
            "displayName": self.about.get("displayName"),
            "description": None,
            "notes": self.about.get("notes"),
            "sweepName": self.about.get("sweep"),
            "tags": self.about.get("tags") or [],
            "config": json.dumps(self.config),
            "wandbConfig": json.dumps(self.config.get("_wandb", {}).get("value", {})),
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.rows),
            "eventsLineCount": len(events),
            "logLineCount": len(self.lines.get("output.log", {})),
            "historyTail": json.dumps([json.dumps(row) for row in self.rows[-1:]]),
            "eventsTail": json.dumps([events[number] for number in sorted(events)[-1:]]),
            "project": {
                "id": f"id-{self.project}",
                "name": self.project,
                "entity": {"id": f"id-{self.entity}", "name": self.entity},
            },
        }

    def as_public(self) -> dict[str, Any]:
        """What the public API tells of it."""
        told = {
            "projectId": "7",
            "state": self.state,
            "group": self.about.get("groupName"),
            "jobType": self.about.get("jobType"),
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "systemMetrics": "{}",
            "user": {"name": USER, "username": USER},
            "historyKeys": {"lastStep": max((row["_step"] for row in self.rows), default=-1), "keys": {}},
        }
        return self.as_bucket() | told

    @property
    def state(self) -> str:
        """As W&B names it."""
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")


class WandbServer:
    """To be used in a ``with``: listens on a free port of loopback."""

    def __init__(self) -> None:
        self.runs: dict[str, ReceivedRun] = {}
        self.projects: set[tuple[str, str]] = set()
        self.views: list[dict[str, Any]] = []
        """Reports, as they were stored."""
        self.share_tokens: dict[str, list[dict[str, Any]]] = {}
        self.teams: list[str] = []
        """Of whoever is logged in."""
        self.asked: Counter[str] = Counter()
        """How often what was asked: GraphQL's operations by name, ``file_stream``, ``upload``, ``telemetry``."""
        self.unknown: list[str] = []
        self.keys_seen: set[str] = set()
        self.before_answer: Callable[[str], None] = lambda operation: None
        """Called with each operation; may set a fault for it and all that follow."""
        self._fault: Fault = None
        self._released = threading.Event()
        self._lock = threading.RLock()
        self._connections: set[socket.socket] = set()
        self._server = _Listener(self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault = "down"

    @property
    def num_changes(self) -> int:
        """How often something was sent that it keeps."""
        return sum(
            self.asked[name] for name in ("UpsertBucket", "file_stream", "upload", "upsertView", "CreateProject")
        )

    @property
    def url(self) -> str:
        """What ``WANDB_BASE_URL`` is set to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a client that is to find the server and to be logged in there."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    @property
    def fault(self) -> Fault:
        """How it fails at the moment; ``"down"`` is for good."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault != "silent":
            self._released.set()
        if fault == "down":
            # From another thread than the one that serves, which would wait for itself.
            threading.Thread(target=self._server.shutdown, daemon=True).start()
            self._server.server_close()
            for connection in list(self._connections):
                _cut(connection)

    # What one asks of it, by the name of the operation in GraphQL.

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return GraphQL's ``data``."""
        with self._lock:
            known: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
                "Viewer": lambda _: {"viewer": _viewer()},
                "GetViewer": lambda _: {"viewer": _viewer(self.teams)},
                "GetDefaultEntity": lambda _: {"viewer": _viewer()},
                "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
                "OrgFeatureFlags": lambda _: {"organization": {"featureFlags": []}},
                "FetchOrgEntityFromEntity": lambda _: {"entity": {"organization": None, "user": None}},
                "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": {"organization": None}},
                "RunResumeStatus": self._resume_status,
                "UpsertBucket": self._upsert_bucket,
                "RunStoppedStatus": lambda _: {"project": {"run": {"stopped": False}}},
                "CreateRunFiles": self._create_run_files,
                "GetProjects": self._get_projects,
                "ProjectInternalId": self._project_internal_id,
                "CreateProject": self._create_project,
                "Runs": self._get_runs,
                "RunHistoryKeys": lambda g: {"project": {"run": self._public(g["name"])}},
                "RunParquetHistory": self._parquet_history,
                "HistoryPage": self._history_page,
                "upsertView": self._upsert_view,
                "RethinkgenReport": self._view,
                "ViewAccessTokens": lambda g: {"view": {"accessTokens": self.share_tokens.get(g["reportId"], [])}},
                "createAccessToken": self._create_access_token,
            }
            if operation not in known:
                self.unknown.append(operation)
                raise LookupError(f"this server does not know the operation {operation}")
            return known[operation](given)

    def _run(self, given: dict[str, Any], name: str) -> ReceivedRun | None:
        run = self.runs.get(given[name])
        return run if run is not None and run.project == given["project"] else None

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self._run(given, "name")
        entity = {"id": f"id-{USER}", "name": given.get("entity") or USER}
        bucket = None if run is None else run.as_bucket()
        return {"model": {"id": "model", "name": given["project"], "entity": entity, "bucket": bucket}}

    def _upsert_bucket(self, given: dict[str, Any]) -> dict[str, Any]:
        is_new = given["name"] not in self.runs
        entity = given.get("entity") or USER
        self.projects.add((entity, given["project"]))
        run = self.runs.setdefault(given["name"], ReceivedRun(given["name"], given["project"], entity))
        run.times_opened += given.get("displayName") is not None
        if given.get("config") is not None:
            run.config = json.loads(given["config"])
        about = {
            key: value
            for key, value in given.items()
            if key not in ("id", "name", "project", "entity", "config") and value is not None
        }
        run.about.update(about)
        return {"upsertBucket": {"bucket": run.as_bucket(), "inserted": is_new}}

    def _create_run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"storage-{given['run']}", "uploadHeaders": [], "files": files}}

    def _get_projects(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "__typename": "Project",
                "id": f"id-{name}",
                "name": name,
                "entityName": entity,
                "createdAt": "2026-01-01T00:00:00Z",
                "isBenchmark": False,
                "user": None,
            }
            for entity, name in sorted(self.projects)
            if entity == given["entity"]
        ]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"cursor": "", "node": node} for node in nodes]}}

    def _project_internal_id(self, given: dict[str, Any]) -> dict[str, Any]:
        is_known = (given["entityName"], given["projectName"]) in self.projects
        return {"project": {"id": "project", "internalId": "7"} if is_known else None}

    def _create_project(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        entity = asked.get("entityName") or asked.get("entity_name") or USER
        self.projects.add((entity, asked["name"]))
        made = {
            "id": "project",
            "name": asked["name"],
            "entityName": entity,
            "description": None,
            "access": "PRIVATE",
            "views": None,
        }
        return {"result": {"project": made, "model": made, "inserted": True}}

    def _public(self, run_id: str) -> dict[str, Any]:
        return self.runs[run_id].as_public()

    def _get_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        """The runs of a project that a filter names, in pages."""
        if (given["entity"], given["project"]) not in self.projects:
            return {"project": None}
        wanted = json.loads(given["filters"])["name"]["$in"]
        found = [run for run in self.runs.values() if run.project == given["project"] and run.id in wanted]
        first = int(given.get("cursor") or 0)
        page = found[first : first + given["perPage"]]
        edges = [{"node": run.as_public(), "cursor": str(first + i + 1)} for i, run in enumerate(page)]
        info = {"endCursor": str(first + len(page)), "hasNextPage": first + len(page) < len(found)}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "7", "runCount": len(found), "readOnly": False, "runs": runs}}

    def _parquet_history(self, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing is exported yet: all of it is live."""
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def _history_page(self, given: dict[str, Any]) -> dict[str, Any]:
        rows = [row for row in self.runs[given["run"]].rows if given["minStep"] <= row["_step"] < given["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: given["pageSize"]]]}}}

    def _view(self, given: dict[str, Any]) -> dict[str, Any]:
        stored = [view for view in self.views if view["id"] == given["reportId"]]
        return {"view": {key: stored[-1][key] for key in ("id", "type")} if stored else None}

    def _upsert_view(self, given: dict[str, Any]) -> dict[str, Any]:
        view = {**given, "id": given.get("id") or f"view{len(self.views)}"}
        self.views.append(view)
        answer = {key: view[key] for key in ("id", "type", "name", "displayName", "description", "spec")}
        project = {"id": "project", "name": view["projectName"], "entityName": view["entityName"]}
        return {"upsertView": {"view": answer | {"project": project, "updatedAt": None}, "inserted": True}}

    def _create_access_token(self, given: dict[str, Any]) -> dict[str, Any]:
        projects = [{"entityName": item["entityName"], "name": item["projectName"]} for item in given["projects"]]
        token = {"token": "public-token", "type": "PUBLIC", "revokedAt": None, "projects": projects}
        self.share_tokens.setdefault(given["viewId"], []).append(token)
        return {"createAccessToken": {"accessToken": token}}

    # What is sent to it beside GraphQL.

    def stream(self, run_id: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Take lines of a run's files, and what else comes with them; return the answer."""
        with self._lock:
            run = self.runs[run_id]
            for name, chunk in (sent.get("files") or {}).items():
                if name == "wandb-summary.json":
                    run.summary = json.loads(chunk["content"][-1])
                else:
                    numbered = enumerate(chunk["content"], start=chunk["offset"])
                    run.lines.setdefault(name, {}).update(numbered)
            if sent.get("complete"):
                run.exit_code = sent["exitcode"]
        return {"exitcode": None, "limits": {}}

    def store(self, run_id: str, name: str, content: bytes) -> dict[str, Any]:
        """Take an uploaded file of a run; return the answer."""
        with self._lock:
            self.runs[run_id].files[name] = content
        return {}


def assert_mirrors(server: WandbServer, folder: Path) -> None:
    """The server has what the run's own files say: every row of every column, and the result's numbers."""
    result = json.loads((folder / "result.json").read_text())
    run = server.runs[result["run_id"]]
    assert_has_curves(run, folder)
    metrics = {key: value for key, value in result["metrics"].items() if value is not None}
    assert {key: run.summary.get(key) for key in metrics} == pytest.approx(metrics)
    assert run.state == "finished"


def assert_has_curves(run: ReceivedRun, folder: Path) -> None:
    """Every number of every row of ``metrics.csv`` is there, and nothing else."""
    table = pd.read_csv(folder / "metrics.csv").set_index("step").drop(columns="weights_digest")
    assert "fit/accuracy" in table
    for column in table:
        assert run.curve(str(column)) == pytest.approx(table[column].dropna().to_dict()), column
    logged = {key for row in run.rows for key in row if not key.startswith("_")}
    assert logged == {*map(str, table), "trainer/global_step"}


@contextlib.contextmanager
def logged_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[WandbServer]:
    """Start a server, and have W&B's client find it: in this process and in those that it starts.

    Nothing of this machine's user is seen or changed; ``home`` is where the client keeps its own files.
    """
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(home / "no-netrc"))
    with WandbServer() as server:
        for name, value in (server.environment | directories(home)).items():
            monkeypatch.setenv(name, value)
        yield server
        # The client holds on to what it could not send.
        server.fault = "down"
        wandb.teardown()


def directories(home: Path) -> dict[str, str]:
    """Return the environment that keeps W&B's client out of the user's own files."""
    return {f"WANDB_{name}_DIR": str(home / "wandb-home") for name in ("CONFIG", "CACHE", "DATA")}


def _viewer(teams: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "id": "user",
        "name": USER,
        "entity": USER,
        "username": USER,
        "email": "somebody@example.com",
        "admin": False,
        "flags": "{}",
        "deletedAt": None,
        "apiKeys": None,
        "teams": {"edges": [{"node": {"name": name}} for name in teams]},
    }


def _cut(connection: socket.socket) -> None:
    # The client may have been first.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: WandbServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away, or of a connection that a fault cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self.server.owner._connections.add(self.connection)

    def finish(self) -> None:
        self.server.owner._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no log."""

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
            operation = found.group(1) if found else request["query"]
            self._respond(operation, lambda: self._graphql(operation, request.get("variables") or {}))
        elif self.path.startswith("/sdk/otel/"):
            # W&B's client on itself.
            self._respond("telemetry", dict)
        else:
            run_id = unquote(self.path.split("/")[-2])
            sent = json.loads(body or b"{}")
            self._respond(
                "file_stream", lambda: self.server.owner.stream(run_id, sent) or {"exitcode": None, "limits": {}}
            )

    def do_PUT(self) -> None:
        body = self._body()
        _, _, run_id, name = unquote(self.path).split("/", 3)
        self._respond("upload", lambda: self.server.owner.store(run_id, name, body))

    def do_GET(self) -> None:
        self._respond("GET", dict)

    def _graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"data": self.server.owner.answer(operation, given)}
        except LookupError as error:
            return {"errors": [{"message": str(error)}]}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _respond(self, operation: str, answer: Callable[[], dict[str, Any]]) -> None:
        owner = self.server.owner
        owner.asked[operation] += 1
        owner.keys_seen.add(self.headers.get("Authorization", ""))
        owner.before_answer(operation)
        if owner.fault == "silent":
            owner._released.wait()
        if owner.fault == "down":
            self.close_connection = True
            return
        status, content = (owner.fault, {}) if isinstance(owner.fault, int) else (200, answer())
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)
