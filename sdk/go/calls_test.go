package prewarmer

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seen starts a server, and returns the last request: METHOD path?query body.
func seen(t *testing.T, opts ...Option) (*Client, *string) {
	var last string
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		last = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(body))
		reply(w, 200, `{}`)
	}, opts...)
	return client, &last
}

func TestRequests(t *testing.T) {
	ctx := context.Background()
	client, last := seen(t, WithNamespace("bank"))
	minimal := ScheduleRequest{CronExpr: "@daily", TaskConfig: TaskRequest{Images: []string{"a"}}}
	const minimalBody = `{"cronExpr":"@daily","taskConfig":{"images":["a"]},"namespace":"NS"}`
	for expected, call := range map[string]func() (any, error){
		"GET /api/v1/tasks?limit=5&namespace=bank&offset=10&status=running": func() (any, error) {
			return client.ListTasks(ctx, Limit(5), Offset(10), WithStatus(StatusRunning))
		},
		"GET /api/v1/tasks?namespace=bank&search=a%26b%3Dc+d%2Be%25f%2F%E2%98%83": func() (any, error) {
			return client.ListTasks(ctx, WithSearch("a&b=c d+e%f/\u2603"))
		},
		"GET /api/v1/tasks?namespace=bank":           func() (any, error) { return client.ListTasks(ctx, WithSearch("")) },
		"GET /api/v1/tasks":                          func() (any, error) { return client.ListTasks(ctx, AllNamespaces()) },
		"GET /api/v1/tasks/a%2Fb?namespace=shop":     func() (any, error) { return client.GetTask(ctx, "a/b", InNamespace("shop")) },
		"DELETE /api/v1/tasks/t1?namespace=bank":     func() (any, error) { return client.CancelTask(ctx, "t1") },
		"POST /api/v1/tasks/t1/retry?namespace=bank": func() (any, error) { return client.RetryTask(ctx, "t1") },
		"POST /api/v1/tasks/a%2Fb/retry?namespace=shop": func() (any, error) {
			return client.RetryTask(ctx, "a/b", IdempotencyKey("k"), InNamespace("shop"))
		},
		"GET /api/v1/nodes?eligible=true":                     func() (any, error) { return client.ListNodes(ctx, WithEligible(true)) },
		"GET /api/v1/stats?namespace=bank":                    func() (any, error) { return client.GetStats(ctx) },
		"POST /api/v1/tasks:extract?namespace=bank kind: Pod": func() (any, error) { return client.Extract(ctx, strings.NewReader("kind: Pod")) },
		"DELETE /api/v1/scheduled-tasks/s1":                   func() (any, error) { return client.DeleteSchedule(ctx, "s1", AllNamespaces()) },
		"GET /api/v1/scheduled-tasks?enabled=false":           func() (any, error) { return client.ListSchedules(ctx, WithEnabled(false), AllNamespaces()) },
		"POST /api/v1/scheduled-tasks " + strings.Replace(minimalBody, "NS", "bank", 1): func() (any, error) {
			return client.CreateSchedule(ctx, minimal)
		},
		"PUT /api/v1/scheduled-tasks/s1?namespace=shop " + strings.Replace(minimalBody, "NS", "shop", 1): func() (any, error) {
			return client.ReplaceSchedule(ctx, "s1", minimal, InNamespace("shop"))
		},
		`PUT /api/v1/scheduled-tasks/s1?namespace=bank {"enabled":false,"taskConfig":{"batchSize":5}}`: func() (any, error) {
			return client.UpdateSchedule(ctx, "s1", ScheduleUpdate{Enabled: Ptr(false), TaskConfig: TaskUpdate{BatchSize: Count(5)}})
		},
		"PUT /api/v1/scheduled-tasks/s1/enable?namespace=bank":       func() (any, error) { return client.EnableSchedule(ctx, "s1") },
		"PUT /api/v1/scheduled-tasks/s1/disable?namespace=bank":      func() (any, error) { return client.DisableSchedule(ctx, "s1") },
		"POST /api/v1/scheduled-tasks/s1/trigger?namespace=bank":     func() (any, error) { return client.TriggerSchedule(ctx, "s1") },
		"GET /api/v1/scheduled-tasks/s1/executions/7?namespace=bank": func() (any, error) { return client.GetExecution(ctx, "s1", 7) },
		"GET /api/v1/scheduled-tasks/s1/executions?namespace=bank":   func() (any, error) { return client.ListExecutions(ctx, "s1") },
		`POST /api/v1/tasks {"images":["a"],"namespace":"bank"}`:     func() (any, error) { return client.CreateTask(ctx, TaskRequest{Images: []string{"a"}}) },
		`POST /api/v1/tasks {"images":["a"]}`: func() (any, error) {
			return client.CreateTask(ctx, TaskRequest{Images: []string{"a"}}, AllNamespaces())
		},
		`POST /api/v1/tasks {"images":null,"namespace":"body"}`: func() (any, error) { return client.CreateTask(ctx, TaskRequest{Namespace: "body"}) },
		`POST /api/v1/tasks {"images":["b"],"batchSize":10,"maxRetries":0,"namespace":"bank","nodes":"all"}`: func() (any, error) {
			return client.CreateTask(ctx, TaskRequest{Images: []string{"b"}, BatchSize: Count(10), MaxRetries: Ptr(0), Nodes: Word("all")})
		},
	} {
		if _, err := call(); err != nil || *last != expected {
			t.Errorf("%s: %v\n expected %s", *last, err, expected)
		}
	}
}

func TestInvalidCallsAreNotSent(t *testing.T) {
	ctx := context.Background()
	client, last := seen(t)
	for name, call := range map[string]func() (any, error){
		"empty id":  func() (any, error) { return client.GetTask(ctx, "") },
		"dots":      func() (any, error) { return client.CancelTask(ctx, "..") },
		"retry":     func() (any, error) { return client.RetryTask(ctx, "") },
		"no key":    func() (any, error) { return client.RetryTask(ctx, "t1", IdempotencyKey("")) },
		"option":    func() (any, error) { return client.ListNodes(ctx, InNamespace("bank")) },
		"limit":     func() (any, error) { return client.GetTask(ctx, "t1", Limit(1)) },
		"key":       func() (any, error) { return client.CreateSchedule(ctx, ScheduleRequest{}, IdempotencyKey("k")) },
		"body":      func() (any, error) { return client.CreateTask(ctx, TaskRequest{Tolerations: []any{make(chan int)}}) },
		"manifest":  func() (any, error) { return client.Extract(ctx, io.MultiReader(brokenReader{})) },
		"iteration": func() (any, error) { return first(client.Tasks(ctx, WithEligible(true))) },
		"search":    func() (any, error) { return client.ListSchedules(ctx, WithSearch("x")) },
		"nodes":     func() (any, error) { return first(client.Nodes(ctx, WithStatus("x"))) },
		"watch":     func() (any, error) { return first(client.WatchTask(ctx, "")) },
	} {
		if _, err := call(); err == nil || *last != "" {
			t.Errorf("%s: %v, sent %s", name, err, *last)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func first[T any](items func(func(T, error) bool)) (item T, err error) {
	for item, err = range items {
		break
	}
	return item, err
}

func TestAmounts(t *testing.T) {
	for text, amount := range map[string]Amount{`10`: Count(10), `0`: Count(0), `"25%"`: Percent(25), `"all"`: Word("all"), `null`: {}} {
		encoded, err := json.Marshal(amount)
		if err != nil || string(encoded) != text {
			t.Errorf("%v is %s, %v", amount, encoded, err)
		}
		decoded := Count(99)
		if err := json.Unmarshal([]byte(text), &decoded); err != nil || decoded != amount {
			t.Errorf("%s is %v, %v", text, decoded, err)
		}
		if expected := strings.Trim(text, `"`); amount.String() != expected && !amount.IsZero() {
			t.Errorf("%v", amount)
		}
	}
	if err := json.Unmarshal([]byte(`[1]`), new(Amount)); err == nil {
		t.Error("a list is an amount")
	}
}

func TestUnknownFieldsAndValuesAreAccepted(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, taskJSON("paused", `,"createdAt":"2026-11-21T09:00:00Z","startedAt":null,"mood":{"a":[1]},"retryStrategy":"random"`))
	})
	task, err := client.GetTask(context.Background(), "t1")
	if err != nil || task.Status != "paused" || task.RetryStrategy != "random" || task.Ended() {
		t.Errorf("%+v, %v", task, err)
	}
	if !task.CreatedAt.Equal(time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)) || task.StartedAt != nil || task.BatchSize != Percent(50) {
		t.Errorf("%+v", task)
	}
}

func TestExtracted(t *testing.T) {
	const text = `{"workload":"Pod/x","namespace":"default","verdict":"wanted","images":["nginx:1.27"],` +
		`"placement":{"nodeSelector":{"type":"fake"},"tolerations":[{"operator":"Exists"}]},"credentials":{"imagePullSecrets":["registry"]},` +
		`"nodes":100,"warnings":["odd"],"nodeCount":0,"nodeNames":["n1"]}`
	const ignored = `{"workload":"Pod/y","namespace":"default","verdict":"ignored","reason":"not supported","images":[],"placement":{},"credentials":{},"nodes":"25%"}`
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if kind := r.Header.Get("Content-Type"); kind != "application/json" {
			t.Error(kind)
		}
		reply(w, 200, `{"workloads":[`+text+`,`+ignored+`],"skipped":[]}`)
	})
	found, err := client.Extract(context.Background(), strings.NewReader(` {"kind": "Pod"}`))
	if err != nil {
		t.Fatal(err)
	}
	for i, expected := range []ExtractedView{{
		Workload: "Pod/x", Namespace: "default", Verdict: "wanted", Images: []string{"nginx:1.27"},
		Placement: map[string]any{
			"nodeSelector": map[string]any{"type": "fake"},
			"tolerations":  []any{map[string]any{"operator": "Exists"}},
		},
		Credentials: map[string]any{"imagePullSecrets": []any{"registry"}},
		Nodes:       Count(100), Warnings: []string{"odd"}, NodeCount: Ptr(0), NodeNames: []string{"n1"},
	}, {
		Workload: "Pod/y", Namespace: "default", Verdict: "ignored", Reason: "not supported", Images: []string{},
		Placement: map[string]any{}, Credentials: map[string]any{}, Nodes: Percent(25),
	}} {
		view := found.Workloads[i]
		if !reflect.DeepEqual(view, expected) {
			t.Errorf("%+v\n expected %+v", view, expected)
		}
		encoded, err := json.Marshal(view)
		var before, after any
		if err != nil || json.Unmarshal([]byte([]string{text, ignored}[i]), &before) != nil ||
			json.Unmarshal(encoded, &after) != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%s, %v", encoded, err)
		}
	}
}

func TestTasksFollowTheLink(t *testing.T) {
	var queries []string
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		if len(queries) < 3 {
			w.Header().Add("Link", `<https://elsewhere/first>; rel="first", </api/v1/tasks?limit=2&offset=`+strconv.Itoa(2*len(queries))+`&search=a%2Bb%20c&until=1~b~t>; rel="next"`)
		}
		reply(w, 200, `{"tasks":[`+taskJSON("running", "")+`,`+taskJSON("failed", "")+`],"total":6,"limit":2,"offset":0}`)
	})
	count := 0
	for task, err := range client.Tasks(context.Background(), Limit(2), InNamespace("bank"), WithSearch("a+b c")) {
		if err != nil || task.TaskID != "t1" {
			t.Fatal(err)
		}
		count++
	}
	const search = "search=a%2Bb+c"
	expected := "limit=2&namespace=bank&" + search + " limit=2&offset=2&" + search + "&until=1~b~t limit=2&offset=4&" + search + "&until=1~b~t"
	if got := strings.ReplaceAll(strings.Join(queries, " "), "%7E", "~"); count != 6 || got != expected {
		t.Errorf("%d tasks of %s", count, got)
	}
}

func TestIteratorsByOffset(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		if limit == 3 && offset == 3 {
			reply(w, 403, `{"error":"no longer"}`)
			return
		}
		var page NodeList
		page.Total = len(names)
		for _, name := range names[min(offset, 5):min(offset+limit, 5)] {
			page.Nodes = append(page.Nodes, NodeView{Name: name})
		}
		body, _ := json.Marshal(page)
		reply(w, 200, string(body))
	})
	read := func(opts ...CallOption) (got string, failed error) {
		for node, err := range client.Nodes(context.Background(), opts...) {
			if err != nil {
				return got, err
			}
			got += node.Name
		}
		return got, nil
	}
	for _, opts := range [][]CallOption{nil, {Limit(1)}, {Limit(2)}, {Limit(5)}} {
		if got, err := read(opts...); got != "abcde" || err != nil {
			t.Errorf("%s, %v", got, err)
		}
	}
	if got, err := read(Limit(2), Offset(3)); got != "de" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := read(Limit(3)); got != "abc" || err == nil {
		t.Errorf("%s, %v", got, err)
	}
	if node, err := first(client.Nodes(context.Background(), Limit(2))); err != nil || node.Name != "a" {
		t.Errorf("%v, %v", node, err)
	}
}
