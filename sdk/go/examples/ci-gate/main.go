// Command ci-gate warms the images of a manifest before a pipeline rolls it out, and exits with 1
// if images cannot be pulled:
//
//	kustomize build overlays/production | ci-gate -node-type web -timeout 10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	kind := flag.String("node-type", "", "value of the label type of the nodes to warm (default: all nodes)")
	timeout := flag.Duration("timeout", 10*time.Minute, "timeout of the gate")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	err := gate(ctx, *kind, timeout.String())
	var failed *prewarmer.TaskFailedError
	switch {
	case errors.As(err, &failed):
		fmt.Fprintln(os.Stderr, "not all images were pulled:", failed)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "the gate failed:", err)
		os.Exit(2)
	}
}

func gate(ctx context.Context, kind, deadline string) error {
	client, err := prewarmer.FromEnv()
	if err != nil {
		return err
	}
	images, err := imagesOf(ctx, client)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		fmt.Println("the manifest contains no images to warm")
		return nil
	}
	request := prewarmer.TaskRequest{Images: images, BatchPolicy: prewarmer.BatchPolicyRolling, Deadline: deadline}
	if kind != "" {
		request.NodeSelector = map[string]string{"type": kind}
	}
	task, err := client.CreateTask(ctx, request)
	if err != nil {
		return err
	}
	done, err := client.Wait(ctx, task.TaskID,
		prewarmer.InNamespace(task.Namespace),
		prewarmer.WithProgress(prewarmer.ProgressWriter(os.Stdout)),
		prewarmer.FailUnlessCompleted())
	if err != nil {
		return err
	}
	fmt.Println("ready for the rollout:", done.Message)
	return nil
}

// imagesOf returns the images of the manifest's workloads. The server extracts them, so that the
// pipeline does not need to support every kind.
func imagesOf(ctx context.Context, client *prewarmer.Client) ([]string, error) {
	found, err := client.Extract(ctx, os.Stdin)
	if err != nil {
		return nil, err
	}
	if len(found.Errors) > 0 {
		first := found.Errors[0]
		return nil, fmt.Errorf("document %d: %s: %s", first.Document, first.Field, first.Message)
	}
	var images []string
	for _, workload := range found.Workloads {
		images = append(images, workload.Images...)
	}
	slices.Sort(images)
	return slices.Compact(images), nil
}
