package prewarmer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func sendEvent(w http.ResponseWriter, id int, status string) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprintf(w, ": alive\r\n\r\nid: %d\r\nevent: task\r\ndata: %s\r\n\r\n", id, taskJSON(status, ""))
	w.(http.Flusher).Flush()
}

func watchAll(client *Client) (statuses []string, failed error) {
	for task, err := range client.WatchTask(context.Background(), "t1") {
		if err != nil {
			return statuses, err
		}
		statuses = append(statuses, string(task.Status))
	}
	return statuses, nil
}

func TestWatchReconnects(t *testing.T) {
	var lastIDs []string
	client, clock := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("%v", r.Header)
		}
		lastIDs = append(lastIDs, r.Header.Get("Last-Event-ID"))
		switch len(lastIDs) {
		case 1:
			sendEvent(w, 1, "pending")
			sendEvent(w, 2, "running")
			_, _ = fmt.Fprint(w, "id: 3\ndata: {\"cut")
		case 2:
			cut(w)
		case 3:
			w.Header().Set("Retry-After", "3")
			reply(w, 503, `{"error":"no cluster"}`)
		case 4:
			sendEvent(w, 2, "running")
			sendEvent(w, 4, "completed")
			sendEvent(w, 5, "never")
		}
	}, fresh())
	statuses, err := watchAll(client)
	if err != nil || strings.Join(statuses, " ") != "pending running completed" {
		t.Errorf("%v, %v", statuses, err)
	}
	if strings.Join(lastIDs, ",") != ",2,2,2" || len(clock.slept) != 3 || clock.slept[2] < 3*time.Second {
		t.Errorf("%q, %v", lastIDs, clock.slept)
	}
}

func TestWatchEndsWithNoContent(t *testing.T) {
	connections := 0
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if connections++; connections == 1 {
			sendEvent(w, 1, "running")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if statuses, err := watchAll(client); err != nil || len(statuses) != 1 {
		t.Errorf("%v, %v", statuses, err)
	}
}

func TestWatchFailsAfterRetries(t *testing.T) {
	for name, c := range map[string]struct {
		handler     http.HandlerFunc
		connections int
		words       string
	}{
		"nothing":   {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/event-stream") }, 5, "before the task did"},
		"not found": {func(w http.ResponseWriter, _ *http.Request) { reply(w, 404, `{"error":"no such task"}`) }, 1, "no such task"},
		"page":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, 1, "not the API's JSON"},
		"no task": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: soon\n\n"))
		}, 1, "invalid event"},
	} {
		connections := 0
		client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { connections++; c.handler(w, r) })
		statuses, err := watchAll(client)
		if err == nil || !strings.Contains(err.Error(), c.words) || connections != c.connections || len(statuses) != 0 {
			t.Errorf("%s: %v after %d connections", name, err, connections)
		}
	}
}

func TestLongConnectionsResetTheFailureCount(t *testing.T) {
	connections := 0
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		connections++
		status := "running"
		if connections == 20 {
			status = "failed"
		}
		sendEvent(w, connections, status)
	}, WithRetries(1))
	if statuses, err := watchAll(client); err != nil || len(statuses) != 20 {
		t.Errorf("%v, %v", statuses, err)
	}
}

func TestWatchStopsWithIterationOrContext(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sendEvent(w, 1, "running")
		<-r.Context().Done()
	})
	if task, err := first(client.WatchTask(context.Background(), "t1")); err != nil || task.Status != StatusRunning {
		t.Errorf("%v, %v", task, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	for _, err := range client.WatchTask(ctx, "t1") {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("%v", last)
	}
}

func TestWatchHasNoTimeout(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		sendEvent(w, 1, "running")
		time.Sleep(150 * time.Millisecond)
		sendEvent(w, 2, "completed")
	}, WithTimeout(50*time.Millisecond), WithHTTPClient(&http.Client{Timeout: 50 * time.Millisecond}), WithRetries(0))
	if statuses, err := watchAll(client); err != nil || len(statuses) != 2 {
		t.Errorf("%v, %v", statuses, err)
	}
}

func TestWatchReconnectsAfterSilence(t *testing.T) {
	connections := make(chan int, 10)
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		connections <- 1
		if n := len(connections); n < 3 {
			if n == 2 {
				sendEvent(w, 1, "running")
			}
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		// Keep-alives, for longer than the maximum silence.
		for range 8 {
			time.Sleep(50 * time.Millisecond)
			_, _ = fmt.Fprint(w, ":\n")
			w.(http.Flusher).Flush()
		}
		sendEvent(w, 2, "completed")
	})
	client.clock.silence = 200 * time.Millisecond
	if statuses, err := watchAll(client); err != nil || len(statuses) != 2 || len(connections) != 3 {
		t.Errorf("%v, %v, %d connections", statuses, err, len(connections))
	}
}

func TestWatchToleratesIdleTimeoutsOfProxies(t *testing.T) {
	var client *Client
	var clock *fakeClock
	connections := 0
	client, clock = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if connections++; connections == 9 {
			sendEvent(w, 1, "completed")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		clock.pass(steady)
	}, WithRetries(1))
	if statuses, err := watchAll(client); err != nil || len(statuses) != 1 {
		t.Errorf("%v, %v", statuses, err)
	}
}

func TestEvents(t *testing.T) {
	stream := ":comment\n\n\nid: 7\ndata: a\ndata:b\nretry: 5\n\ndata: c\n\nignored\n\ndata: cut"
	var got []string
	lines := 0
	err := readEvents(strings.NewReader(stream), func() { lines++ }, func(e event) bool {
		got = append(got, e.id+"="+e.data)
		return true
	})
	if err != nil || fmt.Sprintf("%q", got) != `["7=a\nb" "7=c"]` || lines < 12 {
		t.Errorf("%q, %v, %d lines", got, err, lines)
	}
}
