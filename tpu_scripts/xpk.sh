#!/usr/bin/env bash
# Submits a run to a GKE cluster through XPK, with the same RUN_NAME and bucket.
#
#   CLUSTER=c IMAGE=i xpk.sh [--SETTING=VALUE ...] -- python train.py ...
#
# A template. Needs PROJECT ZONE ACCELERATOR_TYPE BUCKET RUN_NAME, CLUSTER (made with
# `xpk cluster create`), IMAGE (holds this checkout in /jopt, an environment with
# jopt[tpu] as `python`, gcloud and flock). Takes NUM_SLICES, MAX_RETRIES, SHARED_DIR (a
# folder in the image's file system that every pod shares; needed with more than one
# host), DRY_RUN.
#
# XPK restarts on any of the exit codes listed, 75 among them, and counts them all
# against --max-restarts; gke.sh tells 75 apart.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE ACCELERATOR_TYPE BUCKET RUN_NAME CLUSTER IMAGE
[ ${#command[@]} -gt 0 ] || die "no training command; it stands after --"

add_replicas
in_container "${command[@]}"
run xpk workload create --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --workload="$RUN_NAME" --tpu-type="$ACCELERATOR_TYPE" --num-slices="$NUM_SLICES" \
  --docker-image="$IMAGE" --max-restarts="$MAX_RETRIES" \
  --restart-on-exit-codes=1,75,76 --termination-grace-period-seconds=300 \
  --command="$(quote "${words[@]}")"
