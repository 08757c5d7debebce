# shellcheck shell=bash
# Builds the programs of the cluster from Go modules. This file is part of the
# hash that names the folder of the programs: a change here builds them anew.

programs=(etcd kube kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl
  kwok crane helm containerd containerd-shim-runc-v2 pause)

# An older Kubernetes has a module file of its own, and shares the rest.
kube=${PREWARMER_CLUSTER_KUBE:-1.36}
case $kube in
  1.36) kube_mod=go.mod kube_version=v1.36.3 ;;
  1.35) kube_mod=go-1.35.mod kube_version=v1.35.4 ;;
  *) die "PREWARMER_CLUSTER_KUBE=$kube: expected 1.36 or 1.35" ;;
esac

# The newest commit is not in the programs: they depend on these inputs alone.
build_inputs() {
  local file
  for file in lib/build.sh kube/go.mod kube/go.sum kube/$kube_mod kube/${kube_mod%.mod}.sum kube/main.go containerd/go.mod containerd/go.sum helm/go.mod helm/go.sum pause/main.go; do
    printf '%s\n' "$file"
    cat "$here/$file"
  done
  go version
}

# Prints the first program that DIR lacks.
missing_program() {
  local name
  for name in "${programs[@]}"; do
    [[ -x $1/$name ]] || { printf '%s\n' "$name"; return; }
  done
}

# Sets `bin` to the folder of the programs, and builds them if need be.
find_or_build() {
  local lack temporary
  if [[ -n ${PREWARMER_CLUSTER_ASSETS:-} ]]; then
    lack=$(missing_program "$PREWARMER_CLUSTER_ASSETS")
    [[ -z $lack ]] || die "PREWARMER_CLUSTER_ASSETS=$PREWARMER_CLUSTER_ASSETS has no program named $lack"
    bin=$(cd "$PREWARMER_CLUSTER_ASSETS" && pwd)
    return
  fi
  command -v go >/dev/null || die "building the cluster's programs needs Go; or name a folder that has them in PREWARMER_CLUSTER_ASSETS"
  mkdir -p "$cache"
  bin=$cache/cluster-$(build_inputs | sha256sum | cut -c 1-16)
  [[ -d $bin ]] && return
  exec {build_lock}>"$cache/build.lock"
  flock -n "$build_lock" || { say "waiting for another build of the cluster's programs"; flock "$build_lock"; }
  if [[ ! -d $bin ]]; then
    say "building the cluster's programs: about 7 minutes on 2 cores the first time, 1 minute with Go's caches full"
    # A build that is broken off leaves no folder that looks complete.
    temporary=$(mktemp -d "$cache/building.XXXXXX")
    chmod 755 "$temporary"
    if ! (build_all "$temporary"); then
      rm -rf "$temporary"
      die "the build failed"
    fi
    mv "$temporary" "$bin"
  fi
  exec {build_lock}>&-
}

build_all() {
  local out=$1 name
  export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
  cd "$here/kube" || return
  # Without the stamp Kubernetes reports v0.0.0, and clients refuse it.
  go_build "kube $kube_version" -modfile="$kube_mod" -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kube_version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${kube#1.}" -o "$out/kube" . || return
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -s kube "$out/$name"; done
  go_build etcd -ldflags "-s -w" -o "$out/etcd" go.etcd.io/etcd/server/v3 || return
  go_build kwok -ldflags "-s -w" -o "$out/kwok" sigs.k8s.io/kwok/cmd/kwok || return
  build_program crane "$out" || return
  build_program helm "$out" || return
  cd "$here/containerd" || return
  go_build containerd -tags no_btrfs,no_devmapper,no_zfs -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.2.1" \
    -o "$out/containerd" github.com/containerd/containerd/v2/cmd/containerd || return
  go_build containerd-shim-runc-v2 -ldflags "-s -w" -o "$out/containerd-shim-runc-v2" \
    github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 || return
  cd "$here/pause" || return
  go_build pause -ldflags "-s -w" -o "$out/pause" main.go
}

# build_program NAME OUT: builds one of the programs that are of use without a cluster.
build_program() {
  export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
  case $1 in
    crane)
      cd "$here/kube" || return
      go_build crane -modfile="$kube_mod" -ldflags "-s -w" -o "$2/crane" github.com/google/go-containerregistry/cmd/crane
      ;;
    helm)
      cd "$here/helm" || return
      # Without the version, charts that require one are refused.
      go_build helm -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1" -o "$2/helm" helm.sh/helm/v4/cmd/helm
      ;;
    *) die "program: expected crane or helm, got '$1'" ;;
  esac
}

# Prints the path of crane or helm. Builds only this program if the cluster's are not
# built: generated files and images need no Kubernetes.
find_program() {
  local name=$1 folder temporary
  [[ $name == crane || $name == helm ]] || die "program: expected crane or helm, got '$name'"
  for folder in "${PREWARMER_CLUSTER_ASSETS:-}" "$cache/cluster-$(build_inputs | sha256sum | cut -c 1-16)"; do
    [[ -n $folder && -x $folder/$name ]] && { printf '%s\n' "$folder/$name"; return; }
  done
  command -v go >/dev/null || die "building $name needs Go; or name a folder that has it in PREWARMER_CLUSTER_ASSETS"
  folder=$cache/$name-$(build_inputs | sha256sum | cut -c 1-16)
  if [[ ! -x $folder/$name ]]; then
    mkdir -p "$cache"
    temporary=$(mktemp -d "$cache/building.XXXXXX")
    chmod 755 "$temporary"
    (build_program "$name" "$temporary") || { rm -rf "$temporary"; die "the build of $name failed"; }
    # Another process may have built it in the meantime: programs of the same inputs are the same.
    mv -T "$temporary" "$folder" 2>/dev/null || rm -rf "$temporary"
  fi
  printf '%s\n' "$folder/$name"
}

go_build() {
  begin "building $1"
  go build -trimpath "${@:2}" >&2 && finish
}
