package prewarmer

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// states answers each GET of the task with the next state, and does not support watches.
func states(t *testing.T, answers ...string) (*Client, *fakeClock) {
	asked := 0
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/watch") {
			reply(w, 403, `{"error":"you may not watch"}`)
			return
		}
		answer := answers[min(asked, len(answers)-1)]
		asked++
		if answer == "404" {
			reply(w, 404, `{"error":"no such task"}`)
			return
		}
		reply(w, 200, answer)
	})
}

func TestWaitPollsWithoutAWatch(t *testing.T) {
	running := taskJSON("running", "")
	client, clock := states(t, "404", taskJSON("pending", ""), running, running, taskJSON("completed", ""))
	var seen []string
	task, err := client.Wait(context.Background(), "t1", WithProgress(func(task *TaskView) { seen = append(seen, string(task.Status)) }))
	if err != nil || task.Status != StatusCompleted || strings.Join(seen, " ") != "pending running completed" {
		t.Errorf("%v, %v, %v", task, err, seen)
	}
	if len(clock.slept) != 4 || clock.slept[0] != pollEvery {
		t.Errorf("%v", clock.slept)
	}
}

func TestWaitWatches(t *testing.T) {
	client, clock := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/api/v1/tasks/t1/watch?namespace=bank" {
			t.Error(r.URL)
		}
		sendEvent(w, 1, "running")
		sendEvent(w, 2, "cancelled")
	})
	task, err := client.Wait(context.Background(), "t1", InNamespace("bank"))
	if err != nil || task.Status != StatusCancelled || len(clock.slept) != 0 {
		t.Errorf("%v, %v, %v", task, err, clock.slept)
	}
}

func TestWaitWithInterval(t *testing.T) {
	client, clock := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/tasks/t1" {
			t.Error(r.URL)
		}
		// An unknown status with the time of its end.
		reply(w, 200, taskJSON("expired", `,"finishedAt":"2026-11-21T09:00:00Z"`))
	})
	if task, err := client.Wait(context.Background(), "t1", WithInterval(time.Minute)); err != nil || task.Status != "expired" || len(clock.slept) != 0 {
		t.Errorf("%v, %v", task, err)
	}
}

func TestWaitReturnsNotFound(t *testing.T) {
	client, clock := states(t, "404")
	if task, err := client.Wait(context.Background(), "t1"); !errors.Is(err, ErrNotFound) || task != nil || len(clock.slept) != 2 {
		t.Errorf("%v, %v, %v", task, err, clock.slept)
	}
	client, _ = states(t, taskJSON("running", ""), "404")
	if task, err := client.Wait(context.Background(), "t1"); !errors.Is(err, ErrNotFound) || task.Status != StatusRunning {
		t.Errorf("%v, %v", task, err)
	}
}

func TestWaitStopsWithTheContext(t *testing.T) {
	client, _ := states(t, taskJSON("running", ""))
	client.clock.sleep = sleep
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	task, err := client.Wait(ctx, "t1")
	if !errors.Is(err, context.DeadlineExceeded) || task.Status != StatusRunning || !strings.Contains(err.Error(), "waiting for t1, which was running at 50.0%") {
		t.Errorf("%v, %v", task, err)
	}
}

func TestFailuresAreGrouped(t *testing.T) {
	failure := func(node, image, reason string) string {
		return `{"nodeName":"` + node + `","image":"` + image + `","reason":"` + reason + `","message":"of ` + node + `","timestamp":"2026-11-21T09:00:00Z"}`
	}
	details := strings.Join([]string{
		failure("n1", "a", "Timeout"), failure("n2", "b", "ImageNotFound"), failure("n2", "c", "ImageNotFound"), failure("n3", "b", "ImageNotFound"),
		failure("n4", "b", "ImageNotFound"), failure("n5", "b", "ImageNotFound"), failure("n6", "", "NodeGone"),
	}, ",")
	body := strings.Replace(taskJSON("failed", ""), `"failedNodeDetails":[]`, `"failedNodeDetails":[`+details+`]`, 1)
	body = strings.Replace(body, `"failedNodes":0`, `"failedNodes":9`, 1)
	client, _ := states(t, body)
	if _, err := client.Wait(context.Background(), "t1"); err != nil {
		t.Errorf("only a strict wait fails: %v", err)
	}
	_, err := client.Wait(context.Background(), "t1", FailUnlessCompleted())
	var failed *TaskFailedError
	if !errors.As(err, &failed) || len(failed.Failures) != 3 || len(failed.Failures[0].Nodes) != 4 || failed.Task.Status != StatusFailed {
		t.Fatalf("%+v", failed)
	}
	const expected = `prewarmer: t1 in bank is failed: at work
  ImageNotFound on n2, n3, n4 and 1 more, b, c: of n2
  NodeGone on n6: of n6
  Timeout on n1, a: of n1
  9 nodes failed; the server lists 7 failures`
	if err.Error() != expected {
		t.Errorf("%s", err)
	}
}

func TestWaitForCompletion(t *testing.T) {
	client, _ := states(t, taskJSON("running", ""), taskJSON("completed", ""))
	if task, err := client.WaitForCompletion(context.Background(), "t1", WithInterval(time.Millisecond)); err != nil || task.Status != StatusCompleted {
		t.Errorf("%v, %v", task, err)
	}
	for _, status := range []string{"failed", "cancelled"} {
		client, _ := states(t, taskJSON(status, ""))
		var failed *TaskFailedError
		if _, err := client.WaitForCompletion(context.Background(), "t1"); !errors.As(err, &failed) || string(failed.Task.Status) != status {
			t.Errorf("%s: %v", status, err)
		}
	}
}

func TestProgress(t *testing.T) {
	task := &TaskView{TaskID: "t1", Status: StatusRunning, Message: "batch 1\x1b[2J of 2", Progress: Progress{TotalNodes: 4, CompletedNodes: 1, FailedNodes: 1, Percentage: 25}}
	ended := *task
	ended.Status, ended.Message = StatusCompleted, ""
	var plain, terminal bytes.Buffer
	for _, report := range []func(*TaskView){ProgressWriter(&plain), drawProgress(&terminal)} {
		report(task)
		report(task)
		report(&ended)
	}
	if plain.String() != "t1 running 1/4 nodes 25.0%, 1 failed, batch 1 [2J of 2\nt1 completed 1/4 nodes 25.0%, 1 failed\n" {
		t.Errorf("%q", plain.String())
	}
	const line = "\rt1 running 1/4 nodes 25.0%, 1 failed, batch 1 [2J of 2\x1b[K"
	if terminal.String() != line+line+"\rt1 completed 1/4 nodes 25.0%, 1 failed\x1b[K\n" {
		t.Errorf("%q", terminal.String())
	}
	long := *task
	long.Message = strings.Repeat("ü", 200)
	terminal.Reset()
	drawProgress(&terminal)(&long)
	if drawn := []rune(strings.TrimSuffix(terminal.String(), "\x1b[K")); len(drawn) != maxLine+1 {
		t.Errorf("%d columns", len(drawn)-1)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) {
		t.Error("a file is a terminal")
	}
}
