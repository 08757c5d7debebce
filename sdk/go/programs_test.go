package prewarmer

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestTheReadmeContainsTheQuickstart(t *testing.T) {
	program, err := os.ReadFile("examples/quickstart/main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```go\n"+string(program)+"```\n") {
		t.Error("README.md does not contain examples/quickstart/main.go unchanged")
	}
}

func TestLivePrograms(t *testing.T) {
	live(t)
	const pod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": {"prewarm.io/enabled": "true"}}, "spec": {"containers": [{"name": "web", "image": "IMAGE"}]}}`
	for name, program := range map[string]struct {
		args   []string
		stdin  string
		fails  bool
		prints string
	}{
		"quickstart":      {[]string{"./examples/quickstart", "fake", "nginx:1.27"}, "", false, "warm on "},
		"wait":            {[]string{"./examples/wait", "-batch", "100", "fake", "nginx:1.27"}, "", false, " completed "},
		"wait, too short": {[]string{"./examples/wait", "-timeout", "3s", "-batch", "1", "fake", "registry.example/slow:1"}, "", true, "deadline exceeded"},
		"schedule":        {[]string{"./examples/schedule", "fake", "nginx:1.27"}, "", false, "run 1, manual: "},
		"ci-gate":         {[]string{"./examples/ci-gate", "-node-type", "fake"}, strings.Replace(pod, "IMAGE", "redis:7.4", 1), false, "ready for the rollout"},
		"ci-gate, closed": {[]string{"./examples/ci-gate", "-node-type", "fake"}, strings.Replace(pod, "IMAGE", "registry.example/missing:2", 1), true, "ImageNotFound on node-"},
		"ci-gate, empty":  {[]string{"./examples/ci-gate"}, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}`, false, "no images to warm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			command := exec.CommandContext(ctx, "go", append([]string{"run"}, program.args...)...)
			command.Env = append(os.Environ(), "PREWARMER_NAMESPACE="+liveNamespace())
			command.Stdin = strings.NewReader(program.stdin)
			output, err := command.CombinedOutput()
			if (err != nil) != program.fails || !strings.Contains(string(output), program.prints) {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}
