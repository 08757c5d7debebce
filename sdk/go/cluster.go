package prewarmer

import "context"

// ListNodes returns a page of the cluster's nodes. [Client.Nodes] iterates over all pages.
func (c *Client) ListNodes(ctx context.Context, opts ...CallOption) (*NodeList, error) {
	return simple[NodeList](ctx, c, opListNodes, opts)
}

// GetStats returns the number of tasks and schedules that the caller may read.
func (c *Client) GetStats(ctx context.Context, opts ...CallOption) (*Stats, error) {
	return simple[Stats](ctx, c, opGetStats, opts)
}
