"""One table."""

from __future__ import annotations

from django.db import models


class Note(models.Model):
    """What a client has written."""

    number = models.IntegerField(unique=True)
