#!/usr/bin/env bash
# Asks for TPU VMs as a queued resource, unless it is there already.
#
#   create.sh [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME ACCELERATOR_TYPE. Takes RUNTIME_VERSION (else from the
# accelerator), NUM_SLICES (1), CAPACITY (on-demand, spot or reserved), QR (TPU_NAME),
# DRY_RUN.
#
# ACTIVE or on its way: nothing to do. FAILED or SUSPENDED (as a preempted one is):
# deleted by its name and asked for again. Does not wait for the machines: wait.sh does.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME ACCELERATOR_TYPE

create() {
  local words=(gcloud compute tpus queued-resources create "$QR")
  if [ "$NUM_SLICES" = 1 ]; then
    words+=(--node-id="$TPU_NAME")
  else
    words+=(--node-count="$NUM_SLICES" --node-prefix="$TPU_NAME")
  fi
  words+=(--zone="$ZONE" --project="$PROJECT" --accelerator-type="$ACCELERATOR_TYPE"
    --runtime-version="$(runtime_version)")
  [ "$CAPACITY" = on-demand ] || words+=(--"$CAPACITY")
  run "${words[@]}"
}

while :; do
  state=$(queued_state)
  case $state in
    ACTIVE)
      say "$QR is ACTIVE"
      exit 0
      ;;
    ABSENT)
      create
      exit 0
      ;;
    UNKNOWN)
      if [ "$DRY_RUN" = 1 ]; then
        create
        exit 0
      fi
      say "the state of $QR cannot be asked for; the reason stands above"
      exit 1
      ;;
    FAILED | SUSPENDED)
      say "$QR is $state: it is deleted and asked for again"
      delete_queued
      ;;
    SUSPENDING | DELETING)
      say "$QR is $state"
      sleep "$POLL_SECS"
      ;;
    *)
      say "$QR is $state already"
      exit 0
      ;;
  esac
done
