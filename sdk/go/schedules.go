package prewarmer

import (
	"cmp"
	"context"
	"strconv"
)

// CreateSchedule creates a schedule. It has no idempotency key: after a connection error, check
// whether the schedule exists.
func (c *Client) CreateSchedule(ctx context.Context, schedule ScheduleRequest, opts ...CallOption) (*ScheduleView, error) {
	namespace, opts := take(opts, namespaceKey, c.namespace)
	schedule.Namespace = cmp.Or(schedule.Namespace, namespace)
	r, err := c.request(opCreateSchedule, opts)
	if err != nil {
		return nil, err
	}
	// The namespace is part of the body.
	r.query.Del(namespaceKey)
	if err := r.setBody(schedule); err != nil {
		return nil, err
	}
	return answer[ScheduleView](ctx, c, r)
}

// ListSchedules returns a page of the schedules. [Client.Schedules] iterates over all pages.
func (c *Client) ListSchedules(ctx context.Context, opts ...CallOption) (*ScheduleList, error) {
	return simple[ScheduleList](ctx, c, opListSchedules, opts)
}

// GetSchedule returns a schedule.
func (c *Client) GetSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opGetSchedule, opts, id)
}

// UpdateSchedule changes a schedule. Fields that are not set, also those of TaskConfig, keep their
// values.
func (c *Client) UpdateSchedule(ctx context.Context, id string, change ScheduleUpdate, opts ...CallOption) (*ScheduleView, error) {
	namespace, opts := take(opts, namespaceKey, c.namespace)
	namespace = cmp.Or(change.Namespace, namespace)
	r, err := c.request(opReplaceSchedule, append(opts, InNamespace(namespace)), id)
	if err != nil {
		return nil, err
	}
	if err := r.setBody(change); err != nil {
		return nil, err
	}
	return answer[ScheduleView](ctx, c, r)
}

// ReplaceSchedule changes a schedule to the cron expression and the images of the request. Other
// fields that are not set keep their values. See [Client.UpdateSchedule].
func (c *Client) ReplaceSchedule(ctx context.Context, id string, schedule ScheduleRequest, opts ...CallOption) (*ScheduleView, error) {
	namespace, opts := take(opts, namespaceKey, c.namespace)
	schedule.Namespace = cmp.Or(schedule.Namespace, namespace)
	r, err := c.request(opReplaceSchedule, append(opts, InNamespace(schedule.Namespace)), id)
	if err != nil {
		return nil, err
	}
	if err := r.setBody(schedule); err != nil {
		return nil, err
	}
	return answer[ScheduleView](ctx, c, r)
}

// DeleteSchedule deletes a schedule and the tasks that it has created.
//
// It is not retried if the server may have processed it, because another client, such as a GitOps
// tool, may have created a schedule with the same name since.
func (c *Client) DeleteSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleDone, error) {
	r, err := c.request(opDeleteSchedule, opts, id)
	if err != nil {
		return nil, err
	}
	r.repeatable = false
	return answer[ScheduleDone](ctx, c, r)
}

// EnableSchedule enables a schedule.
func (c *Client) EnableSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opEnableSchedule, opts, id)
}

// DisableSchedule disables a schedule. A running execution continues.
func (c *Client) DisableSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opDisableSchedule, opts, id)
}

// TriggerSchedule starts an execution of a schedule now, whether it is enabled or not. It returns
// ErrConflict if an execution is running and the schedule's overlap policy is to skip.
func (c *Client) TriggerSchedule(ctx context.Context, id string, opts ...CallOption) (*Triggered, error) {
	return simple[Triggered](ctx, c, opTriggerSchedule, opts, id)
}

// ListExecutions returns a page of the executions of a schedule, newest first. [Client.Executions]
// iterates over all pages.
func (c *Client) ListExecutions(ctx context.Context, id string, opts ...CallOption) (*ExecutionList, error) {
	return simple[ExecutionList](ctx, c, opListExecutions, opts, id)
}

// GetExecution returns an execution of a schedule by its number.
func (c *Client) GetExecution(ctx context.Context, id string, number int, opts ...CallOption) (*ExecutionView, error) {
	return simple[ExecutionView](ctx, c, opGetExecution, opts, id, strconv.Itoa(number))
}
