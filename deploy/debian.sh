#!/usr/bin/env bash
# Prints the path of a tarball with a minimal Debian: deploy/debian.sh SUITE PACKAGE,PACKAGE...
# debootstrap makes it, without asking an image registry; it is kept for a month in ${XDG_CACHE_HOME:-~/.cache}.
# Needs root, and installs debootstrap by apt-get where it is missing.
# shellcheck disable=SC2016 # apt-get and awk expand what is in single quotes
set -euo pipefail
suite=$1 packages=$2
cache="${XDG_CACHE_HOME:-$HOME/.cache}/keyvault-image"
tarball="$cache/$suite-$(uname -m)-$(echo "$packages" | cksum | cut -d ' ' -f 1).tar.gz"

# The mirror of this machine; empty if it is not Debian's: debootstrap takes its default then.
mirror() {
    apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 == "main" && !found { found = 1; print $3 }' || true
}

bootstrap() {
    local root="$work/root" script="/usr/share/debootstrap/scripts/$suite"
    # A debootstrap that is older than the suite has no script for it; sid's fits.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    rm -rf --one-file-system "$root"
    timeout 600 debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$(mirror)" "$script" &&
        tar -C "$root" --exclude='./dev/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
            -I 'gzip -1' -cf "$tarball.part" . && mv "$tarball.part" "$tarball"
}

install() { apt-get install -y --no-install-recommends debootstrap debian-archive-keyring; }

mkdir -p "$cache"
find "$cache" -name '*.tar.gz' -mtime +30 -delete
if [ ! -s "$tarball" ]; then
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    {
        command -v debootstrap || install || { apt-get update && install; }
        bootstrap || bootstrap # a mirror may be in the middle of its own update
    } >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; echo "debian: no $suite by debootstrap" >&2; exit 1; }
fi
echo "$tarball"
