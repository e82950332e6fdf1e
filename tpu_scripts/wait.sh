#!/usr/bin/env bash
# Waits until the queued resource is ACTIVE, with one line for each look.
#
#   wait.sh [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME. Takes QR, POLL_SECS (30), DRY_RUN.
# Exit codes: 0 ACTIVE, 1 FAILED or ten looks in a row without an answer, 75 lost on the
# way (suspended, deleted): create.sh asks for it again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME

silent=0
while :; do
  state=$(queued_state)
  [ "$DRY_RUN" = 0 ] || exit 0
  say "$QR is $state"
  case $state in
    ACTIVE) exit 0 ;;
    FAILED) exit 1 ;;
    SUSPENDING | SUSPENDED | DELETING | ABSENT) exit 75 ;;
    UNKNOWN)
      silent=$((silent + 1))
      [ "$silent" -lt 10 ] || exit 1
      ;;
    *) silent=0 ;;
  esac
  sleep "$POLL_SECS"
done
