# Sourced by run and nightly: named steps, each in a copy of what git would commit; all of it gone at the end.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
unset PYTHONPATH VIRTUAL_ENV

committed=$scratch/committed
mkdir "$committed"
git ls-files -coz --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$committed"

python=${PYTHON:-$(command -v python3.11 || command -v python3)}

# venv [INTERPRETER]: make and enter the step's own environment.
venv() {
    "${1:-$python}" -m venv "$own/venv"
    . "$own/venv/bin/activate"
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

# one_step NAME: run the function step_NAME in $checkout, a fresh copy. Nobody else uses $own, which is gone at the end.
one_step() {
    local status
    own=$scratch/step-$1 checkout=$scratch/step-$1/checkout
    mkdir "$own"
    cp -R "$committed" "$checkout"
    (
        set -e
        cd "$checkout"
        "step_$1"
    ) </dev/null
    status=$?
    rm -rf "$own"
    return "$status"
}

# run_steps NAME...: run steps one by one, and those of NAME+NAME side by side; exit 1 if one of them failed.
# All run whatever fails, since a later one can tell something too.
run_steps() {
    local together step status began failed=() times=()
    local -A processes
    set +e # a function in a condition would ignore set -e
    for together in "$@"; do
        began=$SECONDS
        if [[ $together == *+* ]]; then
            for step in ${together//+/ }; do
                one_step "$step" >"$scratch/$step.log" 2>&1 &
                processes[$step]=$!
            done
        fi
        for step in ${together//+/ }; do
            printf '\n===== %s\n' "$step"
            if [[ $together == *+* ]]; then
                wait "${processes[$step]}"
                status=$?
                cat "$scratch/$step.log"
            else
                one_step "$step"
                status=$?
            fi
            if ((status)); then
                failed+=("$step")
                printf '===== %s FAILED with status %d after %d s\n' "$step" "$status" "$((SECONDS - began))"
            else
                printf '===== %s: done in %d s\n' "$step" "$((SECONDS - began))"
            fi
        done
        times+=("$together $((SECONDS - began)) s")
    done
    printf '\n%s in all %d s\n' "$(printf '%s, ' "${times[@]}")" "$SECONDS"
    if ((${#failed[@]})); then
        printf 'steps that failed: %s\n' "${failed[*]}"
        exit 1
    fi
}
