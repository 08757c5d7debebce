package prewarmer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

const task = `{"taskId": "task-1", "namespace": "shop", "status": "STATUS", "images": ["nginx:1.27"], "batchSize": "25%",
	"progress": {"totalNodes": 4, "completedNodes": DONE, "failedNodes": 0, "currentBatch": 1, "totalBatches": 4, "percentage": 0},
	"failedNodeDetails": [], "message": "MESSAGE"}`

func taskAs(status, done, message string) string {
	return strings.NewReplacer("STATUS", status, "DONE", done, "MESSAGE", message, "\n", "").Replace(task)
}

// demoServer simulates a Prewarmer server, so that the examples need no cluster.
func demoServer() *httptest.Server {
	mux := http.NewServeMux()
	answer := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, body)
		})
	}
	answer("POST /api/v1/tasks", taskAs("pending", "0", "The task was created"))
	answer("GET /api/v1/tasks", `{"tasks": [`+taskAs("running", "1", "")+`], "total": 1, "limit": 100, "offset": 0}`)
	answer("POST /api/v1/tasks:extract", `{"workloads": [{"workload": "Deployment/web", "images": ["nginx:1.27"], "nodes": "25%"}], "skipped": []}`)
	answer("POST /api/v1/scheduled-tasks", `{"id": "scheduled-task-1", "cronExpr": "@daily", "enabled": true}`)
	mux.HandleFunc("GET /api/v1/tasks/task-1/watch", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "id: 1\ndata: %s\n\n", taskAs("running", "1", "batch 1 of 4"))
		_, _ = fmt.Fprintf(w, "id: 2\ndata: %s\n\n", taskAs("completed", "4", "warm on 4 of 4 nodes"))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"error": "no such task", "taskId": "task-9"}`)
	})
	return httptest.NewServer(mux)
}

func demo() (client *prewarmer.Client, done func()) {
	server := demoServer()
	client, err := prewarmer.New(server.URL, prewarmer.WithToken("prw_ci_..."), prewarmer.WithNamespace("shop"))
	if err != nil {
		panic(err)
	}
	return client, server.Close
}

func Example() {
	client, done := demo() // prewarmer.FromEnv()
	defer done()
	ctx := context.Background()
	task, err := client.CreateTask(ctx, prewarmer.TaskRequest{Images: []string{"nginx:1.27"}, BatchSize: prewarmer.Percent(25)})
	if err != nil {
		fmt.Println(err)
		return
	}
	end, err := client.Wait(ctx, task.TaskID, prewarmer.FailUnlessCompleted())
	fmt.Println(end.Status, err)
	// Output: completed <nil>
}

func ExampleClient_Wait() {
	client, done := demo()
	defer done()
	_, err := client.Wait(context.Background(), "task-1",
		prewarmer.WithProgress(prewarmer.ProgressWriter(os.Stdout)),
		prewarmer.FailUnlessCompleted())
	var failed *prewarmer.TaskFailedError
	if errors.As(err, &failed) {
		for _, failure := range failed.Failures {
			fmt.Println(failure.Reason, failure.Nodes)
		}
	}
}

func ExampleClient_WatchTask() {
	client, done := demo()
	defer done()
	for task, err := range client.WatchTask(context.Background(), "task-1") {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(task.Status, task.Message)
	}
	// Output:
	// running batch 1 of 4
	// completed warm on 4 of 4 nodes
}

func ExampleClient_Tasks() {
	client, done := demo()
	defer done()
	for task, err := range client.Tasks(context.Background(), prewarmer.WithStatus(prewarmer.StatusRunning)) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(task.TaskID, task.BatchSize)
	}
	// Output: task-1 25%
}

func ExampleClient_Extract() {
	client, done := demo()
	defer done()
	found, err := client.Extract(context.Background(), strings.NewReader("kind: Deployment ..."))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, workload := range found.Workloads {
		fmt.Println(workload.Workload, workload.Images, workload.Nodes)
	}
	// Output: Deployment/web [nginx:1.27] 25%
}

func ExampleClient_CreateSchedule() {
	client, done := demo()
	defer done()
	schedule, err := client.CreateSchedule(context.Background(), prewarmer.ScheduleRequest{
		CronExpr:   "@daily",
		TaskConfig: prewarmer.TaskRequest{Images: []string{"nginx:1.27"}, MaxRetries: prewarmer.Ptr(2)},
	})
	fmt.Println(schedule.ID, schedule.Enabled, err)
	// Output: scheduled-task-1 true <nil>
}

func ExampleAPIError() {
	client, done := demo()
	defer done()
	_, err := client.GetTask(context.Background(), "task-9")
	fmt.Println(errors.Is(err, prewarmer.ErrNotFound))
	var apiError *prewarmer.APIError
	if errors.As(err, &apiError) {
		fmt.Println(apiError.StatusCode, apiError.Message)
	}
	// Output:
	// true
	// 404 no such task
}
