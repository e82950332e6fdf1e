#!/usr/bin/env bash
# Shows the queued resource's state, what each host does, and the run's status.json.
#
#   status.sh [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME BUCKET RUN_NAME. Takes NUM_SLICES, SHARED_DIR, DRY_RUN.
# A host is `absent` (nothing was started), `running`, `saving` (training has ended, the
# bucket is being written), `exited CODE`, or `gone` (it ended without leaving a code, as
# after a reboot).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME BUCKET RUN_NAME

state=$(queued_state)
[ "$DRY_RUN" = 1 ] || echo "$QR: $state"
if [ "$state" = ACTIVE ] || [ "$DRY_RUN" = 1 ]; then
  worker_states || say "not every host answered"
fi
run gcloud storage cat "gs://$BUCKET/$RUN_NAME/status.json" ||
  say "gs://$BUCKET/$RUN_NAME has no status yet"
