# Sourced by run and nightly: named steps, each in a copy of what git would commit; all of it gone at the end.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
unset PYTHONPATH VIRTUAL_ENV

committed=$scratch/committed checkout=$scratch/checkout
mkdir "$committed"
git ls-files -coz --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$committed"

python=${PYTHON:-$(command -v python3.11 || command -v python3)}

# venv [INTERPRETER]: make and enter the step's own environment.
venv() {
    "${1:-$python}" -m venv "$scratch/venv"
    . "$scratch/venv/bin/activate"
}

# quick_tests [FOLDER...]: those that are not slow, a process for each core.
quick_tests() {
    pip install -q ".[test]"
    python -m pytest -q -n auto -m "not slow and not live" "$@"
}

# interpreter VERSION: print the path of that Python; fail where there is none.
interpreter() {
    local path
    for path in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$path" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            command -v "$path"
            return
        fi
    done
    return 1
}

# run_steps NAME...: run the functions step_NAME, each in $checkout, a fresh copy; exit 1 if one of them failed.
# All run whatever fails, since a later one can tell something too.
run_steps() {
    local step status began failed=() times=()
    for step in "$@"; do
        printf '\n===== %s\n' "$step"
        began=$SECONDS
        cp -R "$committed" "$checkout"
        set +e # a subshell in a condition would ignore set -e
        (
            set -e
            cd "$checkout"
            "step_$step"
        ) </dev/null
        status=$?
        set -e
        rm -rf "$scratch/venv" "$checkout"
        times+=("$step $((SECONDS - began)) s")
        if ((status)); then
            failed+=("$step")
            printf '===== %s FAILED with status %d after %d s\n' "$step" "$status" "$((SECONDS - began))"
        else
            printf '===== %s: done in %d s\n' "$step" "$((SECONDS - began))"
        fi
    done
    printf '\n%s in all %d s\n' "$(printf '%s, ' "${times[@]}")" "$SECONDS"
    if ((${#failed[@]})); then
        printf 'steps that failed: %s\n' "${failed[*]}"
        exit 1
    fi
}
