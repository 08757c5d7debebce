# Builds the programs, once for each state of their inputs. Sourced by ../cluster.

kubernetes_version=v1.36.3
containerd_version=v2.2.1

# The folder of the programs, on standard output.
build() {
  if [ -n "${PREWARMER_CLUSTER_ASSETS:-}" ]; then
    [ -x "$PREWARMER_CLUSTER_ASSETS/kube-apiserver" ] || fail "PREWARMER_CLUSTER_ASSETS=$PREWARMER_CLUSTER_ASSETS has no kube-apiserver"
    echo "$PREWARMER_CLUSTER_ASSETS"
    return
  fi
  command -v go > /dev/null || fail "Go is needed to build the test cluster, and is not on the PATH"
  local key out
  key=$(cd "$here" && { cat kube/go.* kube/main.go containerd/go.* pause/* lib/build.sh; go version; } | sha256sum | cut -c1-16)
  out=$cache/cluster-$key
  if [ ! -d "$out" ]; then
    mkdir -p "$cache"
    (
      flock 9
      [ -d "$out" ] || build_into "$out"
    ) 9> "$cache/build.lock" >&2
  fi
  echo "$out"
}

build_into() {
  say "building the test cluster's programs from Go modules; the first time takes about 7 minutes on 2 cores"
  local tmp=$1.tmp
  rm -rf "$tmp" && mkdir -p "$tmp"
  export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
  step "etcd, kwok and crane" build_tools "$tmp"
  step "Kubernetes $kubernetes_version" build_kubernetes "$tmp"
  step "containerd $containerd_version" build_containerd "$tmp"
  (cd "$here/pause" && go build -trimpath -ldflags "-s -w" -o "$tmp/pause" .)
  mv "$tmp" "$1"
}

build_tools() {
  cd "$here/kube"
  go build -trimpath -ldflags "-s -w" -o "$1/etcd" go.etcd.io/etcd/server/v3
  go build -trimpath -ldflags "-s -w" -o "$1/" sigs.k8s.io/kwok/cmd/kwok github.com/google/go-containerregistry/cmd/crane
}

# One binary under six names; the version must be stamped, or it reports v0.0.0.
build_kubernetes() {
  local stamp=k8s.io/component-base/version minor
  minor=$(echo "$kubernetes_version" | cut -d. -f2)
  cd "$here/kube"
  go build -trimpath -o "$1/kube" \
    -ldflags "-s -w -X $stamp.gitVersion=$kubernetes_version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor" .
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -sf kube "$1/$name"; done
}

build_containerd() {
  cd "$here/containerd"
  go build -trimpath -tags no_btrfs,no_devmapper,no_zfs -o "$1/" \
    -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd_version" \
    github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
}
