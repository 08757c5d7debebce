package prewarmer

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Page sizes of iterators: the maximum that the API allows.
const (
	pageSize     = 100
	nodePageSize = 1000
)

// Tasks iterates over the tasks as of its start, newest first, page by page. It stops after an
// error.
func (c *Client) Tasks(ctx context.Context, opts ...CallOption) iter.Seq2[*TaskView, error] {
	return func(yield func(*TaskView, error) bool) {
		r, err := c.pageRequest(opListTasks, pageSize, opts)
		for err == nil && r.query != nil {
			var page TaskList
			var header http.Header
			if header, err = c.doHeader(ctx, r, &page); err != nil {
				break
			}
			if !yieldAll(page.Tasks, yield) {
				return
			}
			r.query = nextQuery(header)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// Schedules iterates over the schedules. It stops after an error.
func (c *Client) Schedules(ctx context.Context, opts ...CallOption) iter.Seq2[*ScheduleView, error] {
	return byOffset(ctx, c, opListSchedules, pageSize, opts, nil, func(page *ScheduleList) ([]ScheduleView, int) {
		return page.Tasks, page.Total
	})
}

// Nodes iterates over the cluster's nodes. It stops after an error.
func (c *Client) Nodes(ctx context.Context, opts ...CallOption) iter.Seq2[*NodeView, error] {
	return byOffset(ctx, c, opListNodes, nodePageSize, opts, nil, func(page *NodeList) ([]NodeView, int) {
		return page.Nodes, page.Total
	})
}

// Executions iterates over the executions of a schedule, newest first. It stops after an error.
func (c *Client) Executions(ctx context.Context, id string, opts ...CallOption) iter.Seq2[*ExecutionView, error] {
	return byOffset(ctx, c, opListExecutions, pageSize, opts, []string{id}, func(page *ExecutionList) ([]ExecutionView, int) {
		return page.Executions, page.Total
	})
}

// byOffset iterates over the pages of lists without a Link header.
func byOffset[P, T any](
	ctx context.Context, c *Client, op operation, size int, opts []CallOption, ids []string, read func(*P) ([]T, int),
) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		r, err := c.pageRequest(op, size, opts, ids...)
		for err == nil {
			var page P
			if err = c.do(ctx, r, &page); err != nil {
				break
			}
			items, total := read(&page)
			if !yieldAll(items, yield) {
				return
			}
			// Without an offset in the query, Atoi returns 0.
			offset, _ := strconv.Atoi(r.query.Get(offsetKey))
			offset += len(items)
			if len(items) == 0 || offset >= total {
				return
			}
			r.query.Set(offsetKey, strconv.Itoa(offset))
		}
		yield(nil, err)
	}
}

func (c *Client) pageRequest(op operation, size int, opts []CallOption, ids ...string) (*request, error) {
	return c.request(op, append([]CallOption{Limit(size)}, opts...), ids...)
}

func yieldAll[T any](items []T, yield func(*T, error) bool) bool {
	for i := range items {
		if !yield(&items[i], nil) {
			return false
		}
	}
	return true
}

// nextQuery returns the query of the next page, or nil. Only the query of the link is used, so that
// the token is sent to the server of the base URL only.
func nextQuery(header http.Header) url.Values {
	for _, line := range header.Values("Link") {
		for _, link := range strings.Split(line, ",") {
			target, parameters, _ := strings.Cut(strings.TrimSpace(link), ";")
			if !strings.Contains(parameters, `rel="next"`) {
				continue
			}
			if u, err := url.Parse(strings.Trim(target, "<>")); err == nil {
				return u.Query()
			}
		}
	}
	return nil
}
