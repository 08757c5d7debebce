package prewarmer

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// calls contains calls of each kind, repeatable and not repeatable.
var calls = map[string]func(*Client) error{
	"get":    func(c *Client) error { _, err := c.GetTask(context.Background(), "t1"); return err },
	"create": func(c *Client) error { _, err := c.CreateTask(context.Background(), TaskRequest{}); return err },
	"cancel": func(c *Client) error { _, err := c.CancelTask(context.Background(), "t1"); return err },
	"retry":  func(c *Client) error { _, err := c.RetryTask(context.Background(), "t1"); return err },
	"put":    func(c *Client) error { _, err := c.EnableSchedule(context.Background(), "s1"); return err },
	"extract": func(c *Client) error {
		_, err := c.Extract(context.Background(), strings.NewReader("{}"))
		return err
	},
	"schedule": func(c *Client) error { _, err := c.CreateSchedule(context.Background(), ScheduleRequest{}); return err },
	"trigger":  func(c *Client) error { _, err := c.TriggerSchedule(context.Background(), "s1"); return err },
	"delete":   func(c *Client) error { _, err := c.DeleteSchedule(context.Background(), "s1"); return err },
}

var unrepeatable = []string{"schedule", "trigger", "delete"}

func TestRetriesOnlyWhatIsSafe(t *testing.T) {
	failures := map[string]struct {
		fail func(http.ResponseWriter)
		// always: also calls that are not repeatable.
		retried, always bool
	}{
		"429": {func(w http.ResponseWriter) { reply(w, 429, `{"error":"slow down"}`) }, true, true},
		"502": {func(w http.ResponseWriter) { reply(w, 502, `bad gateway`) }, true, false},
		"503": {func(w http.ResponseWriter) { reply(w, 503, `{"error":"no cluster"}`) }, true, false},
		"504": {func(w http.ResponseWriter) { reply(w, 504, `{"error":"slow"}`) }, true, false},
		"cut": {cut, true, false},
		"400": {func(w http.ResponseWriter) { reply(w, 400, `{"error":"wrong"}`) }, false, false},
		"409": {func(w http.ResponseWriter) { reply(w, 409, `{"error":"ended"}`) }, false, false},
		"500": {func(w http.ResponseWriter) { reply(w, 500, `{"error":"bug"}`) }, false, false},
	}
	for cause, failure := range failures {
		for name, call := range calls {
			t.Run(cause+"/"+name, func(t *testing.T) {
				var tries atomic.Int32
				client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					if tries.Add(1) == 1 {
						failure.fail(w)
						return
					}
					reply(w, 200, `{}`)
				}, fresh())
				err := call(client)
				again := failure.retried && (failure.always || !slices.Contains(unrepeatable, name))
				if (err == nil) != again || (tries.Load() == 2) != again {
					t.Errorf("%d attempts, then %v; expected a retry: %v", tries.Load(), err, again)
				}
			})
		}
	}
}

func TestRetriesAllCallsBeforeConnecting(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	for name, call := range calls {
		client, clock := clientOf(t, "http://"+address)
		err := call(client)
		if err == nil || !strings.Contains(err.Error(), "5 attempts") || len(clock.slept) != 4 {
			t.Errorf("%s: %v after %v", name, err, clock.slept)
		}
	}
}

func TestBackoffDoublesUpToABound(t *testing.T) {
	client, clock := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 503, `{"error":"no cluster"}`) }, WithRetries(30))
	_, err := client.GetTask(context.Background(), "t1")
	if !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	expected := []time.Duration{250, 500, 1000, 2000, 4000, 8000, 10000, 10000}
	var sum time.Duration
	for i, slept := range clock.slept {
		if i < len(expected) && slept != expected[i]*time.Millisecond {
			t.Errorf("wait %d is %v", i, slept)
		}
		sum += slept
	}
	if sum > maxRetrying || sum < maxRetrying-maxWait {
		t.Errorf("waited %v in total, expected up to %v", sum, maxRetrying)
	}
}

func TestJitterIsHalf(t *testing.T) {
	client, _ := clientOf(t, "http://localhost")
	client.clock.random = func() float64 { return 0 }
	if wait := client.backoff(errCut, 1); wait != firstWait/2 {
		t.Errorf("%v", wait)
	}
	if wait := client.backoff(errCut, 1000); wait != maxWait/2 {
		t.Errorf("%v", wait)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	date := time.Date(2026, 11, 21, 9, 0, 20, 0, time.UTC).Format(http.TimeFormat)
	for value, expected := range map[string]time.Duration{"7": 7 * time.Second, date: 20 * time.Second, "-1": 0, "soon": 0} {
		tries := 0
		client, clock := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if tries++; tries == 1 {
				w.Header().Set("Retry-After", value)
				reply(w, 429, `{"error":"slow down"}`)
				return
			}
			reply(w, 200, `{}`)
		})
		if _, err := client.TriggerSchedule(context.Background(), "s1"); err != nil {
			t.Fatal(err)
		}
		// The maximum of the random part is a quarter of a second; without Retry-After that is the
		// first delay.
		if clock.slept[0] != expected+firstWait {
			t.Errorf("Retry-After %s: waited %v", value, clock.slept[0])
		}
	}
}

func TestNoRetryBeyondTheDeadline(t *testing.T) {
	client, clock := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		reply(w, 503, `{"error":"no cluster"}`)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := client.GetTask(ctx, "t1")
	var apiError *APIError
	if !errors.As(err, &apiError) || apiError.RetryAfter != time.Minute || len(clock.slept) != 0 {
		t.Errorf("%v after %v", err, clock.slept)
	}
}

func TestRetriesCanBeTurnedOff(t *testing.T) {
	tries := 0
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { tries++; reply(w, 503, `{"error":"no"}`) }, WithRetries(0))
	if _, err := client.GetTask(context.Background(), "t1"); err == nil || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestCreationsKeepTheirKeyInRetries(t *testing.T) {
	ctx := context.Background()
	for name, create := range map[string]func(*Client, ...CallOption) (*TaskCreated, error){
		"create": func(c *Client, opts ...CallOption) (*TaskCreated, error) {
			return c.CreateTask(ctx, TaskRequest{}, opts...)
		},
		"retry": func(c *Client, opts ...CallOption) (*TaskCreated, error) { return c.RetryTask(ctx, "t1", opts...) },
	} {
		var keys []string
		client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			keys = append(keys, r.Header.Get("Idempotency-Key"))
			if len(keys)%2 == 1 {
				cut(w)
			}
			reply(w, 201, `{"taskId":"t2"}`)
		}, fresh())
		for _, opts := range [][]CallOption{nil, nil, {IdempotencyKey("mine")}} {
			if made, err := create(client, opts...); err != nil || made.TaskID != "t2" {
				t.Fatal(name, made, err)
			}
		}
		if keys[0] == "" || keys[0] != keys[1] || keys[2] != keys[3] || keys[0] == keys[2] || keys[4] != "mine" || keys[5] != "mine" {
			t.Errorf("%s: %q", name, keys)
		}
		if _, err := create(client, IdempotencyKey("")); err == nil || len(keys) != 6 {
			t.Errorf("%s: an empty key was accepted", name)
		}
	}
}

func TestRetryOfARunningTaskIsAConflict(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 409, `{"error":"the task has not ended","status":"running"}`)
	})
	var apiError *APIError
	_, err := client.RetryTask(context.Background(), "t1")
	if !errors.Is(err, ErrConflict) || !errors.As(err, &apiError) || apiError.Status != string(StatusRunning) {
		t.Errorf("%v", err)
	}
}

func TestCancelSucceedsAfterALostResponse(t *testing.T) {
	tries := 0
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries == 1 {
			cut(w)
		}
		reply(w, 409, `{"error":"the task has ended already: its status is cancelled","status":"cancelled"}`)
	}, fresh())
	done, err := client.CancelTask(context.Background(), "t1")
	if err != nil || done.Status != StatusCancelled {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err = client.CancelTask(context.Background(), "t1"); !errors.Is(err, ErrConflict) {
		t.Errorf("first attempt: %v", err)
	}
}

func TestEachAttemptHasATimeout(t *testing.T) {
	tries := make(chan int, 10)
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		tries <- 1
		if len(tries) == 1 {
			<-r.Context().Done()
			return
		}
		reply(w, 200, taskJSON("running", ""))
	}, WithTimeout(200*time.Millisecond))
	if _, err := client.GetTask(context.Background(), "t1"); err != nil {
		t.Error(err)
	}
	never, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, WithTimeout(20*time.Millisecond))
	_, err := never.GetTask(context.Background(), "t1")
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 20ms") {
		t.Errorf("%v", err)
	}
}

func TestTheContextStopsRetries(t *testing.T) {
	client, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := client.GetTask(ctx, "t1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	busy, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 503, `{"error":"no"}`) })
	stopped, stop := context.WithCancel(context.Background())
	busy.clock.sleep = func(ctx context.Context, _ time.Duration) error { stop(); return sleep(ctx, time.Hour) }
	_, err := busy.GetTask(stopped, "t1")
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestCertificateErrorsAreNotRetried(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{}`) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	client, clock := clientOf(t, server.URL)
	_, err := client.GetTask(context.Background(), "t1")
	if err == nil || !strings.Contains(err.Error(), "certificate") || len(clock.slept) != 0 {
		t.Errorf("%v after %v", err, clock.slept)
	}
}
