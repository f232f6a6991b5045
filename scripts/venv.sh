# Sourced by the other scripts: finds a Python and makes virtual environments, also on a machine that has neither.

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt_updated=
apt_install() {
    command -v apt-get >/dev/null || die "Please install: $*"
    [ -n "$apt_updated" ] || { as_root apt-get update -qq && apt_updated=1; }
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The first Python that is new enough, $PYTHON before all others.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "lbclient needs Python 3.11 or newer (or set PYTHON)"
}

# make_venv DIRECTORY PYTHON: a virtual environment there, if there is none that works.
make_venv() {
    if "$1/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
    if ! "$2" -c 'import ensurepip' 2>/dev/null; then
        apt_install "python$("$2" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    "$2" -m venv --clear "$1"
}

# pip_install DIRECTORY STAMP REQUIREMENT...: pip install, unless it was done for this very pyproject.toml.
# The stamp names the set of requirements; "dev" holds whatever any other holds.
pip_install() {
    local venv=$1 name=$2 hash stamp
    shift 2
    hash=$("$venv/bin/python" -c 'import hashlib, sys
print(hashlib.sha256(open("pyproject.toml", "rb").read() + repr(sys.argv[1:]).encode()).hexdigest())' "$PWD" "$@")
    stamp=$venv/.lbclient-$name
    if [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]; then return; fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$hash" >"$stamp"
}
