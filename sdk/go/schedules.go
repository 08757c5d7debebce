package prewarmer

import (
	"cmp"
	"context"
	"strconv"
)

// CreateSchedule makes a schedule. The server has no key for repeating that: after an error of the connection, look whether
// it was made.
func (c *Client) CreateSchedule(ctx context.Context, schedule ScheduleRequest, opts ...CallOption) (*ScheduleView, error) {
	namespace, opts := take(opts, namespaceKey, c.namespace)
	schedule.Namespace = cmp.Or(schedule.Namespace, namespace)
	r, err := c.request(opCreateSchedule, opts)
	if err != nil {
		return nil, err
	}
	// The body names it.
	r.query.Del(namespaceKey)
	if err := r.setBody(schedule); err != nil {
		return nil, err
	}
	return answer[ScheduleView](ctx, c, r)
}

// ListSchedules is a page of the schedules. [Client.Schedules] goes through all pages.
func (c *Client) ListSchedules(ctx context.Context, opts ...CallOption) (*ScheduleList, error) {
	return simple[ScheduleList](ctx, c, opListSchedules, opts)
}

// GetSchedule is the schedule as it is now.
func (c *Client) GetSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opGetSchedule, opts, id)
}

// ReplaceSchedule replaces a schedule: what is not named takes its default.
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

// DeleteSchedule deletes a schedule and the tasks that it has made.
//
// It is not repeated where the server may have done it: whoever keeps schedules in a repository may have made one of the
// same name meanwhile.
func (c *Client) DeleteSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleDone, error) {
	r, err := c.request(opDeleteSchedule, opts, id)
	if err != nil {
		return nil, err
	}
	r.repeatable = false
	return answer[ScheduleDone](ctx, c, r)
}

// EnableSchedule has a schedule run from now on.
func (c *Client) EnableSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opEnableSchedule, opts, id)
}

// DisableSchedule has a schedule rest. What is at work goes on.
func (c *Client) DisableSchedule(ctx context.Context, id string, opts ...CallOption) (*ScheduleView, error) {
	return simple[ScheduleView](ctx, c, opDisableSchedule, opts, id)
}

// TriggerSchedule has a schedule run now, enabled or not. While a run is at work and the schedule skips, it is an ErrConflict.
func (c *Client) TriggerSchedule(ctx context.Context, id string, opts ...CallOption) (*Triggered, error) {
	return simple[Triggered](ctx, c, opTriggerSchedule, opts, id)
}

// ListExecutions is a page of the runs of a schedule, newest first. [Client.Executions] goes through all pages.
func (c *Client) ListExecutions(ctx context.Context, id string, opts ...CallOption) (*ExecutionList, error) {
	return simple[ExecutionList](ctx, c, opListExecutions, opts, id)
}

// GetExecution is a run of a schedule, by its number.
func (c *Client) GetExecution(ctx context.Context, id string, number int, opts ...CallOption) (*ExecutionView, error) {
	return simple[ExecutionView](ctx, c, opGetExecution, opts, id, strconv.Itoa(number))
}
