#!/usr/bin/env bash
# Starts the training command on every host, detached: a lost connection ends nothing.
#
#   launch.sh [--SETTING=VALUE ...] -- python train.py --config=configs/muon_lm.py ...
#
# Needs PROJECT ZONE TPU_NAME BUCKET RUN_NAME. Takes NUM_SLICES, SHARED_DIR (a folder
# that all hosts have mounted; needed with more than one host), SYNC_SECS (600), DRY_RUN.
#
# --workdir is added. On the first host the run folder is first brought back from
# gs://BUCKET/RUN_NAME where it is not there, so the same RUN_NAME goes on from the newest
# complete checkpoint; it is copied to the bucket every SYNC_SECS and at the end. With
# several slices --config.mesh.replica=NUM_SLICES is added. Hosts that run it already are
# left alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME BUCKET RUN_NAME
[ ${#command[@]} -gt 0 ] || die "no training command; it stands after --:
  launch.sh -- python train.py --config=configs/muon_lm.py"

add_replicas

mapfile -t all < <(nodes)
first=${all[0]}
# A run folder is one folder. Hosts that have only their own disks cannot share it.
if [ -z "$SHARED_DIR" ]; then
  hosts=$(run gcloud compute tpus tpu-vm describe "$first" --zone="$ZONE" \
    --project="$PROJECT" --format='value(networkEndpoints.len())')
  if [ "$DRY_RUN" = 0 ] && [ "$((hosts * NUM_SLICES))" != 1 ]; then
    die "$TPU_NAME has $((hosts * NUM_SLICES)) hosts and SHARED_DIR is not set
  a run folder is one folder: mount a file system on all hosts and set SHARED_DIR to a
  folder in it (docs/tpu_pods.md)"
  fi
fi

as_worker pull
remote "$first" 0 "${words[@]}"
as_worker start -- "${command[@]}"
on_all_workers "${words[@]}"
