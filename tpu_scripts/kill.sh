#!/usr/bin/env bash
# Asks the training processes to stop: they finish a step, save, and exit 75.
#
#   kill.sh [--now] [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME RUN_NAME. Takes NUM_SLICES, DRY_RUN. --now ends them at
# once, for what hangs: nothing is saved, and what was committed stays. Stop babysit.sh
# before, which takes 75 for a preemption and starts the run again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
signal=TERM
for word in "${rest[@]}"; do
  case $word in
    --now) signal=KILL ;;
    *) die "unexpected argument $word; -h says what there is" ;;
  esac
done
need PROJECT ZONE TPU_NAME RUN_NAME

as_worker stop "$signal"
on_all_workers "${words[@]}"
