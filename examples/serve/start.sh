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
while
    wait "$application"
    status=$?
    kill -0 "$application" 2>/dev/null # a signal has ended the wait before its time
do :; done
kill "$sidecar" 2>/dev/null
wait "$sidecar"
exit "$status"
