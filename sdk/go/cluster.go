package prewarmer

import "context"

// ListNodes is a page of the cluster's nodes. [Client.Nodes] goes through all pages.
func (c *Client) ListNodes(ctx context.Context, opts ...CallOption) (*NodeList, error) {
	return simple[NodeList](ctx, c, opListNodes, opts)
}

// GetStats is how many tasks and schedules there are that the caller may see.
func (c *Client) GetStats(ctx context.Context, opts ...CallOption) (*Stats, error) {
	return simple[Stats](ctx, c, opGetStats, opts)
}
