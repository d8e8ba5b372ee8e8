"""The watcher as a sidecar, for applications in any language: ``litefs-watch serve``. Needs the extra ``serve``.

===============  ==================================================================================================
`options`        its limits, and the token
`guard`          who is let in: a browser's page of elsewhere, a wrong token, and what they are told
`questions`      what is asked, parsed: the query and the body
`endpoints`      a path's methods, and errors as JSON
`places`         how many may wait, or follow, at once
`waiting`        ``/wait`` and ``/position``
`memory`         the last events, numbered
`events`         from the watcher to whoever follows; nobody's slowness is anybody's memory
`streams`        ``/events``: server-sent events, or one JSON object a line
`metrics`        ``/metrics``
`openapi`        ``/openapi.json``, and the page
`app`            the application of all these
`server`         the process around it: signals, uvicorn
`connections`    one that asks nothing, or takes nothing, is closed
`notify`         what systemd is told
===============  ==================================================================================================
"""
