#!/usr/bin/env bash
# Install the Debian packages that are missing, by group:  .ci/system_packages.sh [GROUP...]
# As root or with password-less sudo; otherwise it says what to install and leaves it to you (exit 0).
set -euo pipefail

declare -A groups=(
    [base]="python3-venv"               # python3 -m venv
    [slurm]="slurm-wlm munge"           # slurm/dev_cluster.sh, which the tests use
    [browser]="chromium chromium-driver" # the tests click through the HTML report
    [render]="libosmesa6 libegl1 libgl1" # frames from MuJoCo: on the CPU; on a GPU, with its driver
)
default="base render"

missing=()
for group in ${@:-$default}; do
    [ -n "${groups[$group]:-}" ] || { echo "error: no group $group; choose from ${!groups[*]}" >&2; exit 2; }
    for package in ${groups[$group]}; do
        dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null |
            grep -qx installed || missing+=("$package")
    done
done
[ "${#missing[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! ${as_root[@]+"${as_root[@]}"} true 2>/dev/null; then
    echo "note: not installed, and not permitted to install: ${missing[*]}" >&2
    echo "      if rendering fails, ask for: sudo apt-get install ${missing[*]}" >&2
    exit 0
fi
echo "==> Installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
wait_for_lock="-oDPkg::Lock::Timeout=300"  # another apt may be at work
${as_root[@]+"${as_root[@]}"} apt-get update -qq "$wait_for_lock" </dev/null
${as_root[@]+"${as_root[@]}"} apt-get install -y -qq --no-install-recommends "$wait_for_lock" \
    "${missing[@]}" </dev/null >/dev/null
