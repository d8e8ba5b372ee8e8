#!/bin/sh
# start.sh COMMAND …: the sidecar, and the application, which gets the signals and whose status counts. The sidecar ends before
# LiteFS does: a mount that somebody reads just then can't be unmounted.
application='' ended=''
trap 'ended=1; [ -z "$application" ] || kill -TERM "$application"' TERM INT
litefs-watch serve &
sidecar=$!
"$@" &
application=$!
[ -z "$ended" ] || kill -TERM "$application"
while kill -0 "$application" 2>/dev/null; do # a signal ends a wait before its time
    wait "$application"
    status=$?
done
kill "$sidecar" 2>/dev/null
wait "$sidecar"
exit "$status"
