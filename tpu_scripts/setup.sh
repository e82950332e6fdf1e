#!/usr/bin/env bash
# Makes the Python environment ~/jopt-env on every host, with jopt and JAX for TPUs.
#
#   setup.sh [--SETTING=VALUE ...]
#
# Needs PROJECT ZONE TPU_NAME, and the code on the hosts (sync_code.sh). Takes
# NUM_SLICES, EXTRAS (tpu,data), REMOTE_PYTHON (an interpreter on the hosts; else the
# newest of 3.11 and later there, or one that uv fetches), DRY_RUN. Again is quick.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
no_arguments
need PROJECT ZONE TPU_NAME

as_worker setup
on_all_workers "${words[@]}"
