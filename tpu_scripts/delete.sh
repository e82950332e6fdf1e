#!/usr/bin/env bash
# Deletes the queued resource and its TPU VMs. The bucket stays as it is.
#
#   delete.sh NAME [--SETTING=VALUE ...]
#
# NAME must be the queued resource's exact name, QR (TPU_NAME by default), so that a
# setting left over in the shell deletes nothing. Needs PROJECT ZONE TPU_NAME. Takes
# DRY_RUN.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
need PROJECT ZONE TPU_NAME
[ ${#rest[@]} = 1 ] || die "the exact name is expected: delete.sh $QR"
[ "${rest[0]}" = "$QR" ] || die "${rest[0]} is not $QR, which the settings name (QR or
  TPU_NAME); nothing was deleted"

state=$(queued_state)
if [ "$state" = ABSENT ]; then
  say "$QR does not exist"
else
  delete_queued
fi
