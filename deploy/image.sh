#!/usr/bin/env bash
# Builds the image of ./Dockerfile and runs it: read-only root, no capabilities, a network of its own with loopback only.
#
#   CI=true      what is missing is a failure
#   CI unset     what is missing is reported in one line
#   BASE=image   build on this image; otherwise on Debian bookworm (deploy/debian.sh): no registry is asked
#   HADOLINT=... the linter's path; otherwise it is looked for next to python and in .venv
#
# Needs root, and installs buildah and crun by apt-get where they are missing. What it makes is in a temporary directory
# and goes away.
# shellcheck disable=SC2016 # awk and the inner shell expand what is in single quotes
set -euo pipefail
cd "$(dirname "$0")/.."

SUITE=bookworm
PACKAGES=ca-certificates,python3,python3-venv
UID_=10001
BIN=/opt/keyvault/bin

fail() { echo "image: FAILED: $1" >&2; exit 1; }
ok() { echo "ok: $1"; }
absent() { if [ "${CI:-}" = true ]; then fail "$1"; else echo "skipped: $1"; fi; }

# quiet WHAT COMMAND...: one line if it succeeds, what it said and the end if not
quiet() {
    local what="$1" began=$SECONDS
    shift
    "$@" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; fail "$what"; }
    ok "$what ($((SECONDS - began)) s)"
}

# equal WHAT WANTED FOUND
equal() { if [ "$2" = "$3" ]; then ok "$1: $2"; else fail "$1: wanted $2, found $3"; fi; }

# ---- the linter

lint() {
    local candidate
    for candidate in "${HADOLINT:-}" "$(command -v hadolint || true)" \
        "$(dirname "$(command -v python || echo .)")/hadolint" .venv/bin/hadolint; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            quiet "hadolint" "$candidate" Dockerfile
            return
        fi
    done
    absent "no hadolint"
}

# ---- the tools

tools() { command -v buildah >/dev/null && command -v crun >/dev/null; }

apt_install() {
    apt-get install -y --no-install-recommends buildah crun && return
    apt-get update
    apt-get install -y --no-install-recommends buildah crun
}

builder() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# crun 1.8 refuses to start where both versions of cgroups are mounted; no limits are set here, so it sees none of them.
oci() {
    unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup; exec "$@"' - \
        crun --cgroup-manager=disabled --root "$work/crun" "$@"
}

# ---- the base

make_base() {
    local container
    install -d -m 0700 "$work/private" # the settings may hold a password
    install -d -m 0755 "$work/private/settings"
    python3 deploy/pip_settings.py "$work/private/settings"
    container=$(builder from scratch)
    builder add --quiet "$container" "$1" /
    builder add --quiet "$container" "$work/private/settings" /
    builder config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    builder commit --quiet --rm "$container" localhost/keyvault-base
}

# ---- the image

# inspect EXPRESSION: of the image's configuration, as JSON
inspect() {
    python3 -c 'import json, sys
config = json.load(open(sys.argv[1]))["Docker"]["config"]
print(json.dumps(eval(sys.argv[2], {"config": config}), separators=(",", ":")))' "$work/inspect" "$1"
}

# bundle FOLDER [NAME=VALUE...] -- [COMMAND...]: what crun is to run, as the image says: user, environment, command
bundle() {
    mkdir -p "$work/bundles/$1"
    python3 - "$work" "$@" <<'PYTHON'
import json, sys
from pathlib import Path

work, name, *rest = sys.argv[1:]
environment, command = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
config = json.loads(Path(work, "inspect").read_text())["Docker"]["config"]
uid, gid = map(int, config["User"].split(":"))
process = {
    "user": {"uid": uid, "gid": gid},
    "args": command or [*config["Entrypoint"], *config["Cmd"]],
    "env": [*config["Env"], *environment],
    "cwd": config["WorkingDir"],
    "capabilities": {},
    "noNewPrivileges": True,
}
bind = lambda source, target, *options: {"destination": target, "type": "bind", "source": source, "options": ["bind", *options]}
mounts = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    bind(f"{work}/data", "/data"),
]
spaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]
root = {"path": Path(work, "rootfs").read_text().strip(), "readonly": True}
whole = {"ociVersion": "1.0.0", "root": root, "process": process, "mounts": mounts, "linux": {"namespaces": spaces}}
Path(work, "bundles", name, "config.json").write_text(json.dumps(whole))
Path(work, "bundles", name, "process.json").write_text(json.dumps(process))
PYTHON
}

# contained [NAME=VALUE...] -- COMMAND...: in a container of its own
contained() {
    bundle once "$@"
    oci run --bundle "$work/bundles/once" once
}

# inside NAME [NAME=VALUE...] -- COMMAND...: in that running container, as its user and with its environment
inside() {
    local name="$1"
    shift
    bundle inside "$@"
    oci exec --process "$work/bundles/inside/process.json" "$name"
}

# start NAME [NAME=VALUE...]: the image's own command, until its own HEALTHCHECK is content
start() {
    local name="$1" left=60
    bundle "$@" --
    oci run --bundle "$work/bundles/$name" "$name" >"$work/$name.log" 2>&1 &
    server=$!
    until inside "$name" "${@:2}" -- "${healthcheck[@]}" >"$work/log" 2>&1; do
        if ! kill -0 "$server" 2>/dev/null || [ $((left -= 1)) -le 0 ]; then
            cat "$work/log" "$work/$name.log" >&2
            fail "$name: HEALTHCHECK"
        fi
        sleep 0.5
    done
    ok "$name: HEALTHCHECK says healthy"
}

# stop NAME: the image's own signal
stop() {
    local left=300 began=$SECONDS status=0
    oci kill "$1" "$stop_signal"
    while kill -0 "$server" 2>/dev/null; do
        [ $((left -= 1)) -gt 0 ] || fail "$1: still running 30 s after $stop_signal"
        sleep 0.1
    done
    wait "$server" || status=$?
    server=
    [ "$status" = 0 ] || { cat "$work/$1.log" >&2; fail "$1: $stop_signal: exit status $status"; }
    ok "$1: $stop_signal, exit status 0 in $((SECONDS - began)) s"
}

cleanup() {
    local status=$?
    trap - EXIT
    if [ -n "$server" ]; then # ours is the only container that is still there
        for name in plain tls; do oci delete --force "$name" 2>/dev/null || true; done
        wait "$server" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}

# ---- all of it

server=
work=$(mktemp -d "${TMPDIR:-/tmp}/keyvault-image.XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT TERM
chmod 0711 "$work" # the server's user passes through it

lint
if [ "$(id -u)" != 0 ]; then absent "not root"; exit 0; fi
if ! tools; then
    if ! command -v apt-get >/dev/null; then absent "no buildah"; exit 0; fi
    DEBIAN_FRONTEND=noninteractive quiet "installed buildah and crun" apt_install
fi

if [ -z "${BASE:-}" ]; then
    base=$(deploy/debian.sh "$SUITE" "$PACKAGES") || fail "Debian $SUITE by debootstrap"
    quiet "base image of Debian $SUITE" make_base "$base"
    BASE=localhost/keyvault-base
fi
quiet "buildah bud" timeout 900 buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs \
    bud --isolation chroot --format docker --build-arg "BASE=$BASE" --tag localhost/keyvault .

builder inspect --type image localhost/keyvault >"$work/inspect"
equal "USER" '"10001:10001"' "$(inspect 'config["User"]')"
equal "ENTRYPOINT" "[\"$BIN/keyvault-server\"]" "$(inspect 'config["Entrypoint"]')"
equal "CMD" '["serve"]' "$(inspect 'config["Cmd"]')"
equal "STOPSIGNAL" '"SIGTERM"' "$(inspect 'config["StopSignal"]')"
equal "HEALTHCHECK" "[\"CMD\",\"$BIN/keyvault-server\",\"healthcheck\",\"--liveness\"]" "$(inspect 'config["Healthcheck"]["Test"]')"
equal "EXPOSE" '["50051/tcp"]' "$(inspect 'list(config["ExposedPorts"])')"
equal "VOLUME" '["/data"]' "$(inspect 'list(config["Volumes"])')"
healthcheck=("$BIN/keyvault-server" healthcheck --liveness)
stop_signal=SIGTERM

builder mount "$(builder from --pull-never localhost/keyvault)" >"$work/rootfs"
rootfs=$(cat "$work/rootfs")
install -d -o "$UID_" -g "$UID_" -m 0700 "$work/data"

equal "/data of the image" "$UID_:$UID_ 700" "$(stat -c '%u:%g %a' "$rootfs/data")"
equal "files of the venv that are not root's alone to write" 0 \
    "$(find "$rootfs/opt/keyvault" ! -type l \( ! -uid 0 -o ! -gid 0 -o -perm /022 \) | wc -l)"
equal "pip, build tools and compilers in the venv" 0 \
    "$(find "$rootfs/opt/keyvault" \( -path '*/site-packages/*' -o -path '*/bin/*' \) -prune \
        -regextype posix-extended -iregex '.*/(pip|setuptools|wheel|hatchling|editables|uv|g?cc|c\+\+)[0-9.]*(-.*)?' | wc -l)"
equal "sources left outside the venv" "" "$(find "$rootfs/src" "$rootfs/wheels" "$rootfs/opt/build" 2>/dev/null | head -n 1)"
equal "modules of the project without bytecode" 0 "$(find "$rootfs"/opt/keyvault/lib/python3*/site-packages/keyvault* -name '*.py' |
    while read -r module; do
        compgen -G "$(dirname "$module")/__pycache__/$(basename "$module" .py).*.pyc" >/dev/null || echo "$module"
    done | wc -l)"

equal "id -u" "$UID_" "$(contained -- id -u)"
equal "capabilities" "0000000000000000" "$(contained -- awk '$1 == "CapBnd:" { print $2 }' /proc/self/status)"
for place in / /opt/keyvault /tmp /etc; do
    if contained -- touch "$place/written" 2>"$work/log"; then fail "$place can be written to"; fi
    grep -q 'Read-only file system' "$work/log" || { cat "$work/log" >&2; fail "writing to $place"; }
done
ok "/, /opt/keyvault, /tmp and /etc are read-only"
contained -- touch /data/written || fail "/data cannot be written to"
rm "$work/data/written"
ok "/data can be written to"

status=0
contained KEYVAULT_LISTEN=0.0.0.0:50051 -- "$BIN/keyvault-server" serve >"$work/log" 2>&1 || status=$?
equal "exit status of a server on a non-loopback address without protections" 1 "$status"
status=0
contained -- "${healthcheck[@]}" >"$work/log" 2>&1 || status=$?
equal "exit status of the health check without a server" 1 "$status"

start plain
equal "whose its memory is" 0 "$(inside plain -- stat -c %u /proc/1/mem)"
pid=$(oci state plain | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
tr '\0' '\n' <"/proc/$pid/environ" >"$work/environ"
for variable in PYTHONMALLOC=malloc MALLOC_PERTURB_=165; do
    grep -qx "$variable" "$work/environ" || fail "the server has no $variable"
done
ok "the server has PYTHONMALLOC=malloc and MALLOC_PERTURB_=165"
equal "what is left of a freed key in its environment" "$(printf 'a5%.0s' {1..16})" "$(inside plain -- "$BIN/python3" -c \
    'import ctypes, os; key = os.urandom(1000); there = id(key) + 500; del key; print(ctypes.string_at(there, 16).hex())')"
equal "its longest core file" 0 "$(inside plain -- awk '/^Max core file size/ { print $5 }' /proc/1/limits)"
(umask 077 && inside plain -- "$BIN/keyvault" generate-key image/ >"$work/data/image.key" 2>"$work/log") ||
    { cat "$work/log" >&2; fail "generate a key"; }
chown "$UID_:$UID_" "$work/data/image.key"
inside plain -- "$BIN/keyvault" create image/check --key /data/image.key <<<s3cret >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "create a record"; }
ok "a record is created"
stop plain

contained -- "$BIN/keyvault-server" dev-certs /data/certs >"$work/log" || { cat "$work/log" >&2; fail "dev-certs"; }
cat >"$work/data/policy.toml" <<'POLICY'
[[caller]]
identity = "spiffe://keyvault.test/alice"
tenant = "default"
[[caller.allow]]
methods = ["*"]
names = ["image/*"]
POLICY
start tls KEYVAULT_LISTEN=0.0.0.0:50051 KEYVAULT_TLS_CERTIFICATE=/data/certs/server.pem \
    KEYVAULT_TLS_PRIVATE_KEY=/data/certs/server.key KEYVAULT_TLS_CLIENT_CA=/data/certs/ca.pem \
    KEYVAULT_POLICY=/data/policy.toml KEYVAULT_AUDIT_FILE=/data/audit.jsonl KEYVAULT_INSECURE_EMBEDDED_KEYS=true
equal "the record after a restart, over mutual TLS" s3cret "$(inside tls KEYVAULT_ADDRESS=localhost:50051 \
    KEYVAULT_CA=/data/certs/ca.pem KEYVAULT_CERTIFICATE=/data/certs/alice.pem KEYVAULT_PRIVATE_KEY=/data/certs/alice.key \
    -- "$BIN/keyvault" read image/check --key /data/image.key 2>"$work/log" || cat "$work/log")"
stop tls

ok "size: $(du -sm "$rootfs/opt/keyvault" | cut -f 1) MB on the base's $(($(du -sm "$rootfs" | cut -f 1) - \
    $(du -sm "$rootfs/opt/keyvault" | cut -f 1))) MB; $SECONDS s in all"
echo "image: ok"
