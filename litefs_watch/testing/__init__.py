"""Simulated LiteFS nodes and clusters, for the tests of applications and of this package. Usable without pytest.

- `SimulatedNode`: one node, which says what the test wants it to say, and fails as the real one does;
- `SimulatedCluster`: several nodes, which replicate real SQLite databases with a lag that one sets;
- `check_sessions`: whether recorded operations (`Operation`) kept the session guarantees, what was lost, and how often each
  guarantee was really put to the test;
- `fuse_available`: why no FUSE file system can be mounted here, or None.

The files, from the top: `cluster` (the cluster's calls), `engine` (its thread), `replication` (what is on its way to a
replica), `commits` (noticing them), `sqlite_file` (a database's content, replaced under SQLite's locks); `node` (what a node
says), `process` (its life and its faults), `server`, `http1` and `api` (HTTP), `files` (the mount as an ordinary directory,
and the data directory), `fuse` and `fuse_server` (the mount as FUSE); `sessions` (what was done and found) and
`session_check` (the rules). pytest's fixtures: `litefs_watch.pytest_plugin`.
"""

from litefs_watch.testing.cluster import SimulatedCluster
from litefs_watch.testing.fuse import fuse_available
from litefs_watch.testing.node import SimulatedNode
from litefs_watch.testing.process import NodeStatistics
from litefs_watch.testing.session_check import check_sessions
from litefs_watch.testing.sessions import Guarantee, Operation, SessionReport, Violation

__all__ = [
    "Guarantee",
    "NodeStatistics",
    "Operation",
    "SessionReport",
    "SimulatedCluster",
    "SimulatedNode",
    "Violation",
    "check_sessions",
    "fuse_available",
]
