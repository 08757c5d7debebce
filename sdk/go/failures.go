package prewarmer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxNamed is the maximum number of nodes of each group in an error message.
const maxNamed = 3

// TaskFailedError reports a task that failed or was cancelled.
type TaskFailedError struct {
	// Task is the final state of the task.
	Task *TaskView
	// Failures by reason, in descending order of affected nodes.
	Failures []FailureGroup
}

// FailureGroup contains the failures with one reason.
type FailureGroup struct {
	// Reason of the failures, such as ImageNotFound.
	Reason string
	// Message of the first node.
	Message string
	// Images and Nodes that are affected.
	Images, Nodes []string
}

func newTaskFailedError(task *TaskView) *TaskFailedError {
	groups := map[string]*FailureGroup{}
	for _, failure := range task.FailedNodeDetails {
		group := groups[failure.Reason]
		if group == nil {
			group = &FailureGroup{Reason: failure.Reason, Message: failure.Message}
			groups[failure.Reason] = group
		}
		group.Nodes = addNew(group.Nodes, failure.NodeName)
		if failure.Image != "" {
			group.Images = addNew(group.Images, failure.Image)
		}
	}
	e := &TaskFailedError{Task: task}
	for _, group := range groups {
		e.Failures = append(e.Failures, *group)
	}
	slices.SortFunc(e.Failures, func(a, b FailureGroup) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), cmp.Compare(a.Reason, b.Reason))
	})
	return e
}

func addNew(list []string, item string) []string {
	if slices.Contains(list, item) {
		return list
	}
	return append(list, item)
}

// Error returns the status and message of the task, and each reason with some of its nodes.
func (e *TaskFailedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "prewarmer: %s in %s is %s: %s", e.Task.TaskID, e.Task.Namespace, e.Task.Status, e.Task.Message)
	for _, group := range e.Failures {
		fmt.Fprintf(&b, "\n  %s on %s", group.Reason, someOf(group.Nodes))
		if len(group.Images) > 0 {
			fmt.Fprintf(&b, ", %s", strings.Join(group.Images, ", "))
		}
		fmt.Fprintf(&b, ": %s", group.Message)
	}
	if listed := len(e.Task.FailedNodeDetails); listed > 0 && e.Task.Progress.FailedNodes > listed {
		fmt.Fprintf(&b, "\n  %d nodes failed; the server lists %d failures", e.Task.Progress.FailedNodes, listed)
	}
	return b.String()
}

func someOf(nodes []string) string {
	if len(nodes) <= maxNamed {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(nodes[:maxNamed], ", "), len(nodes)-maxNamed)
}
