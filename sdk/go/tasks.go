package prewarmer

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// CreateTask creates a task. It is idempotent, so that retries do not create a second task: see
// [IdempotencyKey].
func (c *Client) CreateTask(ctx context.Context, task TaskRequest, opts ...CallOption) (*TaskCreated, error) {
	namespace, opts := take(opts, namespaceKey, c.namespace)
	task.Namespace = cmp.Or(task.Namespace, namespace)
	key, opts := take(opts, idempotencyKey, rand.Text())
	r, err := c.request(opCreateTask, opts)
	if err != nil {
		return nil, err
	}
	// The namespace is part of the body.
	r.query.Del(namespaceKey)
	if err := r.setIdempotencyKey(key); err != nil {
		return nil, err
	}
	if err := r.setBody(task); err != nil {
		return nil, err
	}
	return answer[TaskCreated](ctx, c, r)
}

// GetTask returns a task.
func (c *Client) GetTask(ctx context.Context, id string, opts ...CallOption) (*TaskView, error) {
	return simple[TaskView](ctx, c, opGetTask, opts, id)
}

// ListTasks returns a page of the tasks, newest first. [Client.Tasks] iterates over all pages.
func (c *Client) ListTasks(ctx context.Context, opts ...CallOption) (*TaskList, error) {
	return simple[TaskList](ctx, c, opListTasks, opts)
}

// CancelTask cancels a task. It returns ErrConflict if the task has ended.
func (c *Client) CancelTask(ctx context.Context, id string, opts ...CallOption) (*TaskCancelled, error) {
	done, err := simple[TaskCancelled](ctx, c, opCancelTask, opts, id)
	var conflict *APIError
	if errors.As(err, &conflict) && conflict.Attempts > 1 && conflict.Status == string(StatusCancelled) {
		// An earlier attempt cancelled the task, but its response was lost.
		return &TaskCancelled{TaskID: id, Status: StatusCancelled, Message: conflict.Message}, nil
	}
	return done, err
}

// RetryTask creates a task with the spec of an ended task, for the nodes that it did not warm. It
// returns ErrConflict, with the task's status in [APIError], if the task has not ended, has no plan,
// or all its nodes are warm. It is idempotent, so that retries of the call do not create a second
// task: see [IdempotencyKey].
func (c *Client) RetryTask(ctx context.Context, id string, opts ...CallOption) (*TaskCreated, error) {
	key, opts := take(opts, idempotencyKey, rand.Text())
	r, err := c.request(opRetryTask, opts, id)
	if err != nil {
		return nil, err
	}
	if err := r.setIdempotencyKey(key); err != nil {
		return nil, err
	}
	return answer[TaskCreated](ctx, c, r)
}

// Extract returns the images that would be warmed for the workloads of a manifest in JSON or YAML.
// It changes nothing.
func (c *Client) Extract(ctx context.Context, manifest io.Reader, opts ...CallOption) (*ExtractAnswer, error) {
	r, err := c.request(opExtract, opts)
	if err != nil {
		return nil, err
	}
	if r.body, err = io.ReadAll(manifest); err != nil {
		return nil, fmt.Errorf("prewarmer: manifest: %w", err)
	}
	kind := "application/yaml"
	if json.Valid(r.body) {
		kind = "application/json"
	}
	r.header.Set("Content-Type", kind)
	r.repeatable = true
	return answer[ExtractAnswer](ctx, c, r)
}

// Ended reports whether the task has ended, including with a final status that this package does
// not know.
func (v *TaskView) Ended() bool {
	return v.FinishedAt != nil || v.Status == StatusCompleted || v.Status == StatusFailed || v.Status == StatusCancelled
}

// simple makes a call without a body.
func simple[T any](ctx context.Context, c *Client, op operation, opts []CallOption, ids ...string) (*T, error) {
	r, err := c.request(op, opts, ids...)
	if err != nil {
		return nil, err
	}
	return answer[T](ctx, c, r)
}

func answer[T any](ctx context.Context, c *Client, r *request) (*T, error) {
	into := new(T)
	if err := c.do(ctx, r, into); err != nil {
		return nil, err
	}
	return into, nil
}
