"""What LiteFS's transaction files say of a position."""

from __future__ import annotations

from pathlib import Path

import pytest

from litefs_watch import Position
from litefs_watch.position import Where
from litefs_watch.sources.ltx import where_on_disk
from litefs_watch.testing import SimulatedNode


def test_a_transaction_that_litefs_keeps_is_told() -> None:
    """By its checksum; of one that has no file of its own nothing is known."""
    with SimulatedNode() as node:
        positions = [node.commit() for _ in range(3)]
        data_dir = node.data_dir
        for position in positions:  # the first is a snapshot or a transaction, as LiteFS likes it
            assert where_on_disk(data_dir, "app.db", position) is Where.HERE
            assert where_on_disk(data_dir, "app.db", Position(position.txid, position.checksum ^ 1)) is Where.ELSEWHERE
        assert where_on_disk(data_dir, "app.db", Position(99, 1)) is Where.UNTOLD
        assert where_on_disk(data_dir, "other.db", positions[1]) is Where.UNTOLD


HEADER = b"LTX1" + bytes(20) + (7).to_bytes(8, "big") + bytes(68)
OTHER = b"LTX1" + bytes(20) + (8).to_bytes(8, "big") + bytes(68)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"LTX1",
        b"LTX2" + HEADER[4:] + bytes(50) + b"\xff" * 8,
        b"LTX1" + bytes(100),
        bytes(16),
        HEADER + bytes(8),
        HEADER + bytes(50),
        OTHER + bytes(50) + b"\xff" * 8,
    ],
)
def test_a_file_that_is_none_tells_nothing(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off, of another format."""
    folder = tmp_path / "dbs" / "app.db" / "ltx"
    folder.mkdir(parents=True)
    (folder / f"{7:016x}-{7:016x}.ltx").write_bytes(content)
    assert where_on_disk(tmp_path, "app.db", Position(7, 0)) is Where.UNTOLD
