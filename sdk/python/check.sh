#!/usr/bin/env bash
# Checks the Python SDK: the generated client, ruff, mypy, the build of sdist and wheel, and the
# tests with the built package.
#   check.sh           also runs the live tests if PREWARMER_URL is set
#   check.sh --live    fails if the live tests cannot run
# The tools are installed into PREWARMER_CACHE, from the package index that is configured for pip.
set -euo pipefail
# A relative path is relative to the caller's working directory.
if [[ -n ${PREWARMER_CA_FILE:-} ]]; then
  PREWARMER_CA_FILE=$(realpath "$PREWARMER_CA_FILE")
  export PREWARMER_CA_FILE
fi
cd "$(dirname "$0")"

# shellcheck source=tests/environment.sh
. ../../tests/environment.sh
fail() { echo "sdk/python: FAILED: $*" >&2; exit 1; }

live=no
case ${1:-} in
  '') ;;
  --live) live=yes ;;
  *) fail "usage: check.sh [--live]" ;;
esac
[[ $live = no || -n ${PREWARMER_URL:-} ]] || fail "--live requires PREWARMER_URL and PREWARMER_TOKEN"

python=${PYTHON:-python3}
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2> /dev/null ||
  { not_run "the checks of the Python SDK" "Python 3.10 or newer with venv is required (Debian packages python3 and python3-venv), and $("$python" --version 2>&1 || true) is installed; set PYTHON to its path"; exit; }

key=$({ cat requirements-dev.txt; "$python" -c 'import sys; print(sys.executable, sys.version)'; } | sha256sum | cut -c1-16)
tools=${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/python-sdk/$key
mkdir -p "$(dirname "$tools")"
# The lock protects against concurrent runs. An interrupted installation has no marker file, and is
# repeated.
exec 9> "$tools.lock"
flock 9
if [[ ! -e $tools/complete ]]; then
  echo "== installing tools into $tools"
  rm -rf "$tools"
  "$python" -m venv "$tools"
  if ! "$tools/bin/python" -m pip install --disable-pip-version-check --retries 1 -r requirements-dev.txt > "$tools/log" 2>&1; then
    not_run "the checks of the Python SDK" "the tools of requirements-dev.txt could not be installed; the Python package index is required: $(tail -n 1 "$tools/log")"
    exit
  fi
  touch "$tools/complete"
fi
flock -u 9

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# No files are left in the source tree.
export PYTHONDONTWRITEBYTECODE=1 RUFF_CACHE_DIR=$work/ruff MYPY_CACHE_DIR=$work/mypy

echo "== generated client"
"$python" generate.py "$work/client.py"
diff -u src/prewarmer/client.py "$work/client.py" || fail "src/prewarmer/client.py is not current: run generate.py"
echo "== ruff"
"$tools/bin/ruff" format --check --quiet .
"$tools/bin/ruff" check --quiet .
echo "== mypy"
"$tools/bin/mypy" --no-error-summary
echo "== sdist and wheel"
# The wheel is built from the sdist, which proves that the sdist is complete.
"$tools/bin/python" -m build --no-isolation --outdir "$work/dist" . > "$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; fail "the build failed"; }
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/site" \
  "$work"/dist/*.whl
echo "== tests"
export PYTHONPATH=$work/site
"$tools/bin/python" -c 'import prewarmer, sys; sys.exit(not prewarmer.__file__.startswith(sys.argv[1]))' "$work/site" ||
  fail "the tests would not import the built package"
"$tools/bin/python" -m pytest -q -rs -p no:cacheprovider | tee "$work/tests.log" || fail "the tests failed"
[[ $live = no ]] || ! grep -q 'NOT RUN: PREWARMER_URL' "$work/tests.log" || fail "live tests were skipped"

result=$(tail -n 1 "$work/tests.log")
if [[ -n ${PREWARMER_URL:-} ]]; then
  echo "sdk/python: passed, with a server: $result"
else
  echo "sdk/python: passed without a server (the tests with one need PREWARMER_URL): $result"
fi
