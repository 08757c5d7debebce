# shellcheck shell=bash
# run.sh uses `sections` (SC2034).
# shellcheck disable=SC2034
#
# The sections of `make test-long`, in the order in which they run. Sourced by run.sh, which sets
# MEASURE_SCALE and MEASURE_RECORD.
# shellcheck source=tests/environment.sh
. tests/environment.sh
sections=(engine memory scale webhook admission pages functions rest schemathesis availability schedules kubernetes-1.35
  reproducible starts fuzz properties chaos hostile faults soak)
with() { local nodes=$1; shift; tests/cluster/cluster with --fake-nodes "$nodes" -- "$@"; }
of() { if [[ $MEASURE_SCALE == small ]]; then echo "$2"; else echo "$1"; fi; } # of FULL SMALL
peer() { (cd benches/peer && go build -o ../../target/peer .); }
record() { local IFS=$'\t'; printf '%s\n' "$*" >> "$MEASURE_RECORD"; }

# Sections that run the tests of the debug build, which cargo then builds first.
uses_tests() { [[ " $* " =~ \ (rest|schemathesis|availability|schedules|kubernetes-1.35|starts|chaos|hostile|faults|soak)\  ]]; }

# Runs a command, and records the lines that its tests mark with MEASURED.
measured() {
  local code=0
  "$@" 2>&1 | tee "$MEASURE_RECORD.out" || code=$?
  sed -n 's/.*MEASURED \(.*\)/line\t\1/p' "$MEASURE_RECORD.out" >> "$MEASURE_RECORD"
  return "$code"
}
e2e() { measured cargo test --locked --test e2e -- "$@" --nocapture; }

section_engine() { with "$(of 1000 60)" bash tests/measure/engine.sh "$(of 1000 60)" "$(of 10 5)" "$(of 100 20)" "$(of 3 2)"; }
section_memory() {
  with "$(of 5000 60)" bash tests/measure/memory.sh "$(of 5000 60)" "$(of 20 5)" 100 "$(of 2000 30)" "$(of 10000 200)" "$(of 100 10)"
}
section_scale() {
  local nodes reason
  command -v gnuplot > /dev/null || reason=$(install_packages gnuplot-nox) || { not_run "scale" "gnuplot is missing: $reason"; return; }
  for nodes in $(of "100 1000 5000 10000" "20 40 80"); do with "$nodes" bash tests/measure/scale.sh nodes "$(of 20 5)"; done
  # The lists stand for several words.
  # shellcheck disable=SC2046
  {
    with 100 bash tests/measure/scale.sh workloads $(of "100 1000 5000 20000" "10 20 40")
    with 100 bash tests/measure/scale.sh tasks $(of "10 100 1000 10000" "10 20 40")
    with 100 bash tests/measure/scale.sh watchers $(of "1 10 100 1000" "1 10 20")
  }
}
section_webhook() { peer && with 100 bash tests/measure/webhook.sh "$(of 4 1)" target/peer "$(of 3 1)"; }
section_admission() { peer && with 100 bash tests/measure/admission.sh "$(of 2000 100)" 100 target/peer "$(of 3 1)"; }
section_pages() { with "$(of 5000 60)" bash tests/measure/pages.sh "$(of 5000 60)"; }
section_functions() {
  local time=() line
  [[ $MEASURE_SCALE == full ]] || time=(--warm-up-time 0.1 --measurement-time 0.5 --sample-size 10)
  cargo bench --locked --bench engine -- "${time[@]}" 2>&1 | tee "$MEASURE_RECORD.bench"
  # "NAME   time:   [LOW MIDDLE HIGH]", with the name on a line of its own if it is long.
  while read -r line; do record line "$line"; done < <(
    awk '/time: +\[/ {name = $0; sub(/ *time:.*/, "", name); if (name == "") name = last; print name ": " $(NF - 3) " " $(NF - 2)} {last = $0} /bytes|KB/ {print}' "$MEASURE_RECORD.bench"
  )
}
section_rest() {
  PREWARMER_TEST_TASKS=$(of 10000 200) e2e lists_of_many_finished_tasks
  PREWARMER_TEST_WATCHERS=$(of 1000 50) e2e many_watchers_of_one_task
}
section_schemathesis() { PREWARMER_TEST_EXAMPLES=$(of 400 5) e2e api_conforms_to_openapi; }
section_availability() {
  PREWARMER_TEST_ROTATION_SECONDS=$(of 60 15) PREWARMER_TEST_CROWD=$(of 500 50) e2e admission_stays_available
}
section_schedules() { PREWARMER_TEST_TICKS=$(of 10 1) e2e each_scheduled_time_runs_once; }
section_kubernetes-1.35() {
  local tests=(smoke:: engine:: admission:: real_node:: failure_reasons:: chart::)
  [[ $MEASURE_SCALE == full ]] || tests=(smoke::)
  export PREWARMER_CLUSTER_KUBE=1.35
  # The debug build, and the images of the profile quick.
  unset PREWARMER_TEST_PROGRAM
  tests/cluster/cluster with --fake-nodes 120 --real-nodes "$(of 2 0)" -- cargo test --locked --test e2e -- "${tests[@]}"
  record line "passed: ${tests[*]}"
  [[ $MEASURE_SCALE == full ]] || return 0
  tests/installed.sh
  record line "passed: tests/installed.sh"
}
section_reproducible() {
  bash tests/reproducible.sh "$(of release quick)"
  record line "two builds of profile $(of release quick) in different directories: equal digests"
}
section_starts() { PREWARMER_TEST_STARTS=$(of 10000 300) e2e pod_starts_and_saved_time; }
section_fuzz() {
  local log=$MEASURE_RECORD.fuzz
  bash tests/fuzz/run.sh "$(of "${PREWARMER_TEST_FUZZ:-10000000}" 2s)" 2>&1 | tee "$log"
  # "fuzz: NAME: -runs=N", then the statistics of libFuzzer.
  awk '/^fuzz: [a-z]+: / {name = $2} /number_of_executed_units/ {runs = $2} /average_exec_per_sec/ {rate = $2}
    /peak_rss_mb/ {printf "line\t%s %d executions, %d per second, at most %d MB\n", name, runs, rate, $2}' "$log" >> "$MEASURE_RECORD"
}
section_properties() {
  local cases
  cases=$(of 100000 20)
  PROPTEST_CASES=$cases cargo test --locked -p prewarmer-core --lib whatever_happens
  record line "$cases cases of each property: no violation"
}
section_chaos() {
  local nodes
  nodes=$(of 200 40)
  PREWARMER_TEST_NODES=$nodes PREWARMER_TEST_KILLS=$(of 100 2) PREWARMER_TEST_CRASHES=$(of 10 1) PREWARMER_TEST_TAKEOVERS=$(of 10 1) \
    measured with "$nodes" cargo test --locked --test e2e -- chaos --nocapture --test-threads 1
}
section_hostile() { PREWARMER_TEST_ATTACK_SECONDS=$(of 300 20) e2e hostile_tenant; }
section_faults() {
  PREWARMER_TEST_FAULT_SECONDS=$(of 300 30) measured with "$(of 200 60)" cargo test --locked --test e2e -- apiserver_faults --nocapture
}
section_soak() {
  PREWARMER_TEST_SOAK_SECONDS=$(of 3600 30) measured with 60 cargo test --locked --test e2e -- resource_usage_stays_flat --nocapture
}
