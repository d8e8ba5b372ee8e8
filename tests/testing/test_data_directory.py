"""What a simulated node's LTX files say, and which of them stay."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litefs_watch import Position
from litefs_watch.testing import SimulatedNode
from litefs_watch.testing.data_directory import LTX_KEPT

OpenStream = Callable[[SimulatedNode], Any]


def read(node: SimulatedNode, name: str) -> bytes:
    return (node.litefs_dir / name).read_bytes()


def ltx(node: SimulatedNode, database: str = "app.db") -> set[str]:
    return set(os.listdir(node.data_dir / "dbs" / database / "ltx"))


def test_only_the_newest_ltx_files_stay(tmp_path: Path) -> None:
    """So many of them, the last one included."""
    with SimulatedNode(tmp_path) as node:
        last = [node.commit() for _ in range(LTX_KEPT + 20)][-1]
        assert len(ltx(node)) == LTX_KEPT
        assert f"{last.txid:016x}-{last.txid:016x}.ltx" in ltx(node)


def test_history_can_go_back_and_come_again(tmp_path: Path, open_stream: OpenStream) -> None:
    """A lower TXID is a snapshot's: its LTX file starts at TXID 1, and no other one stays."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        first = node.commit(txid=9)
        assert node.commit(txid=3, checksum=7) == Position(3, 7) == node.position()
        assert read(node, "app.db-pos") == b"0000000000000003/0000000000000007\n"
        assert ltx(node) == {"0000000000000001-0000000000000003.ltx"}
        again = node.commit(txid=9)
        assert again.txid == first.txid
        assert again != first
        assert ltx(node) == {"0000000000000001-0000000000000003.ltx", "0000000000000004-0000000000000009.ltx"}
        assert node.commit(txid=3).txid == 3
        assert [stream.txid() for _ in range(4)] == [9, 3, 9, 3]
        assert ltx(node) == {"0000000000000001-0000000000000003.ltx"}


def test_an_ltx_file_names_both_positions(tmp_path: Path) -> None:
    """In LiteFS's header and trailer: TXIDs, size, and the checksums before and after; a snapshot has none before."""
    with SimulatedNode(tmp_path, databases={"app.db": Position(4, 1 << 63 | 5)}) as node:
        folder = node.data_dir / "dbs" / "app.db" / "ltx"
        position = node.commit()
        raw = (folder / "0000000000000005-0000000000000005.ltx").read_bytes()
        assert struct.unpack_from(">4sIIIQQ", raw) == (b"LTX1", 0, 4096, 2, 5, 5)
        assert struct.unpack_from(">Q", raw, 40) == (1 << 63 | 5,)
        assert struct.unpack_from(">Q", raw, 100) == (position.checksum,) == struct.unpack_from(">Q", raw, -16)
        assert len(raw) == 116
        dropped = node.drop_database()
        raw = (folder / "0000000000000006-0000000000000006.ltx").read_bytes()
        assert struct.unpack_from(">I", raw, 12) == (0,)
        assert (struct.unpack_from(">Q", raw, 40), struct.unpack_from(">Q", raw, 100)) == (
            (position.checksum,),
            (dropped.checksum,),
        )
        node.record("app.db", Position(9, 1 << 63 | 9), snapshot=True)
        raw = (folder / "0000000000000001-0000000000000009.ltx").read_bytes()
        assert struct.unpack_from(">QQQQ", raw, 16)[::3] == (1, 0)
