#!/usr/bin/env bash
# Installs SLURM from Debian's or Ubuntu's packages, for tests/integration/test_slurm.py. Ends with 0 in any case: where it cannot be
# installed, these tests are skipped and say why. No daemon is started; each test run starts a cluster of its own.
set -uo pipefail
PATH="$PATH:/usr/sbin"
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "SLURM is not installed, and installing it needs root and apt-get; its tests will be skipped"
    exit 0
fi
# RUNLEVEL=1 keeps the packages from starting their services.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
get=(timeout 150 apt-get --quiet --quiet --option DPkg::Lock::Timeout=60)
"${get[@]}" update && "${get[@]}" install --yes --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null ||
    echo "SLURM could not be installed; its tests will be skipped"
exit 0
