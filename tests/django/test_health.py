"""Django answers load balancers as the other shells do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.test import RequestFactory, override_settings
from django.urls import resolve

from litefs_watch import Role
from litefs_watch.django import get_watcher
from litefs_watch.operate.health import CHECKS
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure

configure()


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        where = {"litefs_dir": node.litefs_dir, "api_url": node.api_url, "hostname": "node-a", "database": "app.db"}
        with override_settings(LITEFS_WATCH=where):
            get_watcher().wait_for_role(Role.PRIMARY, timeout=10)
            yield node


@pytest.mark.parametrize("name", list(CHECKS))
def test_each_path_is_a_url(node: SimulatedNode, name: str) -> None:
    """With a name of its own, and the answer that a primary gives."""
    found = resolve(f"/{name}", urlconf="litefs_watch.django.urls")
    response = found.func(RequestFactory().get(f"/litefs/{name}"))
    assert found.url_name == f"litefs-{name}"
    assert response.status_code == (503 if name == "replica" else 200)
    assert json.loads(response.content)["ok"] is (name != "replica")
    assert response.headers["cache-control"] == "no-store"


def test_what_writes_is_refused(node: SimulatedNode) -> None:
    """405, with what is allowed, and not Django's own 403 for want of a form's token."""
    found = resolve("/primary", urlconf="litefs_watch.django.urls")
    assert vars(found.func)["csrf_exempt"]
    response = found.func(RequestFactory().post("/litefs/primary"))
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
