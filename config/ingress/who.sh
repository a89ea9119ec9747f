#!/bin/sh
# Says which task answers, and for whom; `?2` takes two seconds.
/bin/busybox sleep "${QUERY_STRING:-0}"
printf 'Content-Type: text/plain\r\n\r\n%s for %s\n' "$HOSTNAME" "$HTTP_X_FORWARDED_FOR"
