#!/usr/bin/env bash
# Prints the end of the training logs.
#
#   logs.sh [--lines=N] [--worker=N|all] [--slice=N] [--from_bucket] [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME RUN_NAME; BUCKET with --from_bucket, which reads the copies
# in gs://BUCKET/RUN_NAME/logs/ and works when the machines are gone. Takes DRY_RUN.
# By default 50 lines of worker 0 of slice 0; the file there is
# ~/logs/RUN_NAME.HOSTNAME.log.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
lines=50 host=0 slice=0 from_bucket=0
for word in "${rest[@]}"; do
  case $word in
    --lines=*) lines=${word#*=} ;;
    --worker=*) host=${word#*=} ;;
    --slice=*) slice=${word#*=} ;;
    --from_bucket) from_bucket=1 ;;
    *) die "unexpected argument $word; -h says what there is" ;;
  esac
done
[[ $lines =~ ^[0-9]+$ ]] || die "--lines=$lines is not a whole number"

if [ "$from_bucket" = 1 ]; then
  need BUCKET RUN_NAME
  run gcloud storage cat "gs://$BUCKET/$RUN_NAME/logs/*"
else
  need PROJECT ZONE TPU_NAME RUN_NAME
  node=$(nodes | sed -n "$((slice + 1))p")
  [ -n "$node" ] || die "--slice=$slice; NUM_SLICES is $NUM_SLICES"
  as_worker log "$lines"
  remote "$node" "$host" "${words[@]}"
fi
