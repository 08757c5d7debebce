package prewarmer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Node selector of the live tests: fake nodes of the test cluster.
var fakeNodes = map[string]string{"type": "fake"}

// notRun skips a test that needs a server. It fails if PREWARMER_SDK_LIVE=1, which check.sh --live sets.
func notRun(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("PREWARMER_SDK_LIVE") == "1" {
		t.Fatal("the live tests cannot run: " + why)
	}
	t.Skip("NOT RUN: " + why)
}

// live returns a client of the server named by the environment.
func live(t *testing.T) (context.Context, *Client) {
	t.Helper()
	if os.Getenv("PREWARMER_URL") == "" || os.Getenv("PREWARMER_TOKEN") == "" {
		notRun(t, "PREWARMER_URL and PREWARMER_TOKEN are not set")
	}
	client, err := FromEnv(WithNamespace(liveNamespace()), WithUserAgent("prewarmer-go-test"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx, client
}

func liveNamespace() string {
	if namespace := os.Getenv("PREWARMER_TEST_NAMESPACE"); namespace != "" {
		return namespace
	}
	return "prewarmer"
}

func liveTask(images ...string) TaskRequest {
	return TaskRequest{Images: images, NodeSelector: fakeNodes, BatchSize: Percent(100), BatchPolicy: BatchPolicyRolling}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestLiveTask(t *testing.T) {
	ctx, client := live(t)
	key := IdempotencyKey("go-" + time.Now().Format(time.RFC3339Nano))
	task := must[*TaskCreated](t)(client.CreateTask(ctx, liveTask("nginx:1.27"), key))
	again := must[*TaskCreated](t)(client.CreateTask(ctx, liveTask("nginx:1.27"), key))
	if task.TaskID != again.TaskID || task.Namespace != liveNamespace() || task.BatchSize != Percent(100) || task.CreatedAt == nil {
		t.Errorf("%+v, %+v", task, again)
	}
	if _, err := client.CreateTask(ctx, liveTask("redis:7.4"), key); !errors.Is(err, ErrBadRequest) {
		t.Errorf("the key with another body: %v", err)
	}
	var log bytes.Buffer
	done := must[*TaskView](t)(client.Wait(ctx, task.TaskID, WithProgress(ProgressWriter(&log)), FailUnlessCompleted()))
	if done.Status != StatusCompleted || done.Progress.CompletedNodes != done.Progress.TotalNodes || done.FinishedAt == nil {
		t.Errorf("%+v", done)
	}
	if lines := strings.Count(log.String(), "\n"); lines < 2 || !strings.Contains(log.String(), "completed") {
		t.Errorf("%s", log.String())
	}
	got := must[*TaskView](t)(client.GetTask(ctx, task.TaskID))
	if got.Status != StatusCompleted || got.ImageDetails[0].Image != "nginx:1.27" {
		t.Errorf("%+v", got)
	}
	var apiError *APIError
	if _, err := client.CancelTask(ctx, task.TaskID); !errors.Is(err, ErrConflict) || !errors.As(err, &apiError) || apiError.Status != "completed" {
		t.Errorf("%v", err)
	}
	if _, err := client.RetryTask(ctx, task.TaskID); !errors.Is(err, ErrConflict) || !errors.As(err, &apiError) || apiError.Status != "completed" {
		t.Errorf("%v", err)
	}
}

func TestLiveWatch(t *testing.T) {
	ctx, client := live(t)
	task := must[*TaskCreated](t)(client.CreateTask(ctx, liveTask("redis:7.4")))
	var last *TaskView
	for view, err := range client.WatchTask(ctx, task.TaskID) {
		if err != nil {
			t.Fatal(err)
		}
		last = view
	}
	if last == nil || !last.Ended() {
		t.Errorf("%+v", last)
	}
}

func TestLiveFailure(t *testing.T) {
	ctx, client := live(t)
	request := liveTask("registry.example/missing:1")
	request.Nodes = Count(3)
	task := must[*TaskCreated](t)(client.CreateTask(ctx, request))
	_, err := client.Wait(ctx, task.TaskID, WithInterval(300*time.Millisecond), FailUnlessCompleted())
	var failed *TaskFailedError
	if !errors.As(err, &failed) || failed.Failures[0].Reason != "ImageNotFound" || len(failed.Failures[0].Nodes) != 3 {
		t.Errorf("%v", err)
	}
	key := IdempotencyKey("go-retry-" + time.Now().Format(time.RFC3339Nano))
	next := must[*TaskCreated](t)(client.RetryTask(ctx, task.TaskID, key))
	again := must[*TaskCreated](t)(client.RetryTask(ctx, task.TaskID, key))
	if next.TaskID == task.TaskID || next.TaskID != again.TaskID || !reflect.DeepEqual(next.Images, request.Images) {
		t.Errorf("%+v, %+v", next, again)
	}
	if done := must[*TaskView](t)(client.Wait(ctx, next.TaskID)); done.Status != StatusFailed || done.Progress.TotalNodes != 3 {
		t.Errorf("%+v", done)
	}
}

func TestLiveCancel(t *testing.T) {
	ctx, client := live(t)
	request := liveTask("registry.example/slow:1")
	request.BatchSize, request.BatchPolicy = Count(1), BatchPolicyBarrier
	task := must[*TaskCreated](t)(client.CreateTask(ctx, request))
	cancelled := must[*TaskCancelled](t)(client.CancelTask(ctx, task.TaskID))
	done := must[*TaskView](t)(client.Wait(ctx, task.TaskID))
	if cancelled.Status != StatusCancelled || done.Status != StatusCancelled {
		t.Errorf("%+v, %+v", cancelled, done)
	}
}

func TestLivePages(t *testing.T) {
	ctx, client := live(t)
	request := liveTask("busybox:1")
	request.Nodes = Count(1)
	for range 3 {
		must[*TaskCreated](t)(client.CreateTask(ctx, request))
	}
	total := must[*TaskList](t)(client.ListTasks(ctx, Limit(1))).Total
	ids := map[string]bool{}
	for task, err := range client.Tasks(ctx, Limit(2)) {
		if err != nil {
			t.Fatal(err)
		}
		if task.Namespace != liveNamespace() || ids[task.TaskID] {
			t.Errorf("%s in %s, again: %v", task.TaskID, task.Namespace, ids[task.TaskID])
		}
		ids[task.TaskID] = true
	}
	// Old tasks may be deleted concurrently.
	if total < 3 || len(ids) < 3 {
		t.Errorf("%d of %d tasks", len(ids), total)
	}
	page := must[*TaskList](t)(client.ListTasks(ctx, WithStatus(StatusCancelled), AllNamespaces(), Limit(5)))
	for _, task := range page.Tasks {
		if task.Status != StatusCancelled {
			t.Errorf("%s is %s", task.TaskID, task.Status)
		}
	}
}

func TestLiveSearch(t *testing.T) {
	ctx, client := live(t)
	// Slash and colon are the only characters of an image reference that have a meaning in a URL.
	// Both must be escaped correctly.
	word := fmt.Sprintf("go/search-%d:1", time.Now().UnixNano())
	request := liveTask("registry.example/" + word)
	request.Nodes = Count(1)
	made := map[string]bool{}
	var last string
	for range 3 {
		last = must[*TaskCreated](t)(client.CreateTask(ctx, request)).TaskID
		made[last] = true
	}
	found := map[string]bool{}
	for task, err := range client.Tasks(ctx, WithSearch(word), Limit(1)) {
		if err != nil {
			t.Fatal(err)
		}
		found[task.TaskID] = true
	}
	if !maps.Equal(found, made) {
		t.Errorf("%v are found of %v", found, made)
	}
	if page := must[*TaskList](t)(client.ListTasks(ctx, WithSearch(last))); page.Total != 1 || page.Tasks[0].TaskID != last {
		t.Errorf("by name: %+v", page)
	}
	if page := must[*TaskList](t)(client.ListTasks(ctx, WithSearch("no & such=task+%"))); page.Total != 0 {
		t.Errorf("%+v", page)
	}
	var apiError *APIError
	_, err := client.ListTasks(ctx, WithSearch(strings.Repeat("x", 201)))
	if !errors.Is(err, ErrBadRequest) || !errors.As(err, &apiError) || apiError.Details[0].Field != "search" {
		t.Errorf("%v", err)
	}
}

func TestLiveSchedule(t *testing.T) {
	ctx, client := live(t)
	request := ScheduleRequest{Name: "go sdk", CronExpr: "@yearly", TaskConfig: liveTask("nginx:1.27"), TimeoutSeconds: Ptr(600)}
	schedule := must[*ScheduleView](t)(client.CreateSchedule(ctx, request))
	deleted := false
	t.Cleanup(func() {
		if !deleted {
			_, _ = client.DeleteSchedule(context.Background(), schedule.ID)
		}
	})
	if schedule.Namespace != liveNamespace() || !schedule.Enabled || schedule.NextExecutionAt == nil || *schedule.TimeoutSeconds != 600 {
		t.Errorf("%+v", schedule)
	}
	if off := must[*ScheduleView](t)(client.DisableSchedule(ctx, schedule.ID)); off.Enabled {
		t.Errorf("%+v", off)
	}
	if on := must[*ScheduleView](t)(client.EnableSchedule(ctx, schedule.ID)); !on.Enabled {
		t.Errorf("%+v", on)
	}
	request.CronExpr, request.OverlapPolicy = "@monthly", OverlapQueue
	if replaced := must[*ScheduleView](t)(client.ReplaceSchedule(ctx, schedule.ID, request)); replaced.CronExpr != "@monthly" {
		t.Errorf("%+v", replaced)
	}
	run := must[*Triggered](t)(client.TriggerSchedule(ctx, schedule.ID))
	must[*TaskView](t)(client.Wait(ctx, run.TaskID, FailUnlessCompleted()))
	liveExecutions(ctx, t, client, schedule.ID, run.TaskID)
	got := must[*ScheduleView](t)(client.GetSchedule(ctx, schedule.ID))
	if got.OverlapPolicy != OverlapQueue || got.TaskConfig.BatchSize != Percent(100) {
		t.Errorf("%+v", got)
	}
	must[*ScheduleDone](t)(client.DeleteSchedule(ctx, schedule.ID))
	deleted = true
}

func liveExecutions(ctx context.Context, t *testing.T, client *Client, id, taskID string) {
	t.Helper()
	// The leader records the execution in the status of the schedule shortly after the creation of
	// its task.
	list := must[*ExecutionList](t)(client.ListExecutions(ctx, id, Limit(1)))
	for begun := time.Now(); list.Total == 0 && time.Since(begun) < time.Minute; time.Sleep(200 * time.Millisecond) {
		list = must[*ExecutionList](t)(client.ListExecutions(ctx, id, Limit(1)))
	}
	if list.Total != 1 || list.Executions[0].TaskID != taskID || list.Executions[0].TriggeredAt.IsZero() {
		t.Errorf("%+v", list)
	}
	one := must[*ExecutionView](t)(client.GetExecution(ctx, id, list.Executions[0].ID))
	if one.ScheduledTaskID != id || one.Trigger != "manual" {
		t.Errorf("%+v", one)
	}
	for execution, err := range client.Executions(ctx, id) {
		if err != nil || execution.ID != one.ID {
			t.Errorf("%+v, %v", execution, err)
		}
	}
	found := false
	for schedule, err := range client.Schedules(ctx, WithEnabled(true), Limit(1)) {
		found = found || (err == nil && schedule.ID == id)
	}
	page := must[*ScheduleList](t)(client.ListSchedules(ctx))
	if !found || page.Total < 1 {
		t.Errorf("the schedule is not listed: %+v", page)
	}
}

func TestLiveCluster(t *testing.T) {
	ctx, client := live(t)
	fake := 0
	for node, err := range client.Nodes(ctx, Limit(50)) {
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["type"] == "fake" {
			fake++
		}
	}
	page := must[*NodeList](t)(client.ListNodes(ctx, WithEligible(true)))
	if fake < 100 || page.Limit != 10 || !page.Nodes[0].Eligible {
		t.Errorf("%d fake nodes; %+v", fake, page)
	}
	stats := must[*Stats](t)(client.GetStats(ctx))
	if _, known := stats.Tasks["completed"]; !known {
		t.Errorf("%+v", stats)
	}
}

func TestLiveExtract(t *testing.T) {
	ctx, client := live(t)
	const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {prewarm.io/enabled: "true", prewarm.io/nodes: all, prewarm.io/node: x}}
spec:
  nodeSelector: {type: fake}
  imagePullSecrets: [{name: registry}]
  containers: [{name: web, image: "nginx:1.27"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
`
	found := must[*ExtractAnswer](t)(client.Extract(ctx, strings.NewReader(manifest)))
	web := found.Workloads[0]
	if web.Workload != "Pod/web" || web.Namespace != "shop" || web.Verdict != "wanted" || web.Reason != "" || web.Images[0] != "nginx:1.27" {
		t.Errorf("%+v", web)
	}
	if selector := map[string]any{"type": "fake"}; !reflect.DeepEqual(web.Placement["nodeSelector"], selector) || web.Nodes != Word("all") {
		t.Errorf("%+v", web)
	}
	if !reflect.DeepEqual(web.Credentials["imagePullSecrets"], []any{"registry"}) || len(found.Skipped) != 1 {
		t.Errorf("%+v, %+v", web, found.Skipped)
	}
	if web.NodeCount == nil || *web.NodeCount < 100 || len(web.NodeNames) == 0 || len(web.Warnings) != 1 {
		t.Errorf("%+v", web)
	}
}

func TestLiveErrors(t *testing.T) {
	ctx, client := live(t)
	_, err := client.CreateTask(ctx, TaskRequest{Images: []string{""}, BatchSize: Count(1000)})
	var apiError *APIError
	if !errors.As(err, &apiError) || !errors.Is(err, ErrBadRequest) || len(apiError.Details) != 2 || apiError.RequestID == "" {
		t.Errorf("%v", err)
	}
	for _, words := range []string{"batchSize: 1000", "images[0]: "} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%v", err)
		}
	}
	if _, err := client.GetTask(ctx, "no-such-task"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := client.RetryTask(ctx, "no-such-task"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := first(client.WatchTask(ctx, "no-such-task")); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	unknown := must[*Client](t)(FromEnv(WithToken("prw_unknown_token")))
	if _, err := unknown.GetStats(ctx); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("%v", err)
	}
}

func TestLiveForbidden(t *testing.T) {
	ctx, _ := live(t)
	token := os.Getenv("PREWARMER_READ_TOKEN")
	if token == "" {
		notRun(t, "PREWARMER_READ_TOKEN is not set")
	}
	reader := must[*Client](t)(FromEnv(WithToken(token), WithNamespace(liveNamespace())))
	must[*TaskList](t)(reader.ListTasks(ctx))
	_, err := reader.CreateTask(ctx, liveTask("nginx:1.27"))
	if !errors.Is(err, ErrForbidden) || strings.Contains(err.Error(), token) {
		t.Errorf("%v", err)
	}
}
